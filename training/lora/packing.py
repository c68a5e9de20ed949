"""Batches as one row of tokens: no padding between texts, and what all prompts begin with computed once.

All prompts of a task begin with the same instruction. A packed row holds that prefix once and after it the rest of
every prompt, each seeing the prefix and itself. In a causal model of attention alone (`targets.unmasked_layers`) this
gives each text what it would get in a row of its own, gradients included. TREC with its instruction: 8 prompts are 320
tokens one by one and 131 packed.
"""

from collections.abc import Iterator, Sequence

import msgspec
import torch

# Rows are padded to a multiple: each new shape builds its kernels anew. Attention over a whole row wants it of 32.
ROW_MULTIPLE = 32


class PackedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row for the model: the prefix, the tails, padding."""

    input_ids: torch.Tensor  # int64 [1, T]
    position_ids: torch.Tensor  # int64 [1, T]
    starts: tuple[int, ...]  # where each tail begins in the row
    lengths: tuple[int, ...]  # of each tail, tokens
    prefix_length: int

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Additive attention mask [1, 1, T, T]: 0 where a token may look, the lowest number elsewhere."""
        padding = self.input_ids.shape[1] - self.prefix_length - sum(self.lengths)
        sizes = [self.prefix_length, *self.lengths, padding]
        # On the device, in one copy of a few numbers: a GPU waits neither for the mask nor for how long it is.
        device = self.input_ids.device
        counts = torch.tensor(sizes, device=device)
        owners = torch.arange(len(sizes), device=device).repeat_interleave(counts, output_size=sum(sizes))
        sees = ((owners[:, None] == owners[None, :]) | (owners[None, :] == 0)).tril()
        mask = torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill_(~sees, torch.finfo(dtype).min)
        return mask[None, None]


def shared_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with; always leaves at least one token to each of them."""
    first, *rest = sequences
    limit = min(len(sequence) for sequence in sequences) - 1
    for position in range(limit):
        if any(sequence[position] != first[position] for sequence in rest):
            return position
    return limit


def pack(prefix: Sequence[int], tails: Sequence[Sequence[int]], device: str, multiple: int = ROW_MULTIPLE) -> PackedRow:
    """Lay ``prefix`` and ``tails`` into one row, padded to a ``multiple`` of tokens."""
    num_tokens = len(prefix) + sum(len(tail) for tail in tails)
    padding = -num_tokens % multiple
    ids, positions, starts = list(prefix), list(range(len(prefix))), []
    for tail in tails:
        starts.append(len(ids))
        ids.extend(tail)
        positions.extend(range(len(prefix), len(prefix) + len(tail)))
    return PackedRow(
        input_ids=torch.tensor([ids + [0] * padding], device=device),
        position_ids=torch.tensor([positions + [0] * padding], device=device),
        starts=tuple(starts),
        lengths=tuple(map(len, tails)),
        prefix_length=len(prefix),
    )


def micro_batches(tail_lengths: Sequence[int], prefix_length: int, most_tokens: int) -> Iterator[list[int]]:
    """Split 0 .. n-1 into runs whose packed rows stay within ``most_tokens``; one text may exceed it alone."""
    run: list[int] = []
    tokens = prefix_length
    for index, length in enumerate(tail_lengths):
        if run and tokens + length > most_tokens:
            yield run
            run, tokens = [], prefix_length
        run.append(index)
        tokens += length
    if run:
        yield run

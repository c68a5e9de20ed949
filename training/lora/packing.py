"""Packs a batch into one row of tokens: no padding between texts, and the shared prefix is computed once.

All prompts of a task begin with the same instruction. A packed row contains this prefix once, followed by the remainder
of each prompt, which attends to the prefix and itself. In a causal model with attention layers only
(`targets.unmasked_layers`), each text gets the same result as in a row of its own, gradients included. Eight prompts of
TREC with its instruction are 320 tokens separately and 131 packed.
"""

from collections.abc import Iterator, Sequence

import msgspec
import torch

from fourshot.training.lora.memory import PADDED_TIMES

# Kernels are rebuilt for each new shape, so rows are padded to a multiple. Attention over a whole row needs one of 32.
ROW_MULTIPLE = 32


class PackedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row for the model: the prefix, the tails, and padding."""

    input_ids: torch.Tensor  # int64 [1, T]
    position_ids: torch.Tensor  # int64 [1, T]
    starts: tuple[int, ...]  # index of each tail's first token in the row
    lengths: tuple[int, ...]  # of each tail, in tokens
    prefix_length: int

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the additive mask [1, 1, T, T]: 0 where a token may attend, the lowest number elsewhere."""
        padding = self.input_ids.shape[1] - self.prefix_length - sum(self.lengths)
        sizes = [self.prefix_length, *self.lengths, padding]
        # Built on the device from one copied tensor of a few numbers, so a GPU waits neither for the mask nor its size.
        device = self.input_ids.device
        counts = torch.tensor(sizes, device=device)
        owners = torch.arange(len(sizes), device=device).repeat_interleave(counts, output_size=sum(sizes))
        sees = ((owners[:, None] == owners[None, :]) | (owners[None, :] == 0)).tril()
        mask = torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill_(~sees, torch.finfo(dtype).min)
        return mask[None, None]


def shared_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens that all sequences share at their start, leaving at least one token to each."""
    first, *rest = sequences
    limit = min(len(sequence) for sequence in sequences) - 1
    for position in range(limit):
        if any(sequence[position] != first[position] for sequence in rest):
            return position
    return limit


def pack(prefix: Sequence[int], tails: Sequence[Sequence[int]], device: str, multiple: int = ROW_MULTIPLE) -> PackedRow:
    """Concatenate ``prefix`` and ``tails`` into one row, padded to a ``multiple`` of tokens."""
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
    """Split indices 0 .. n-1 into runs whose packed rows have at most ``most_tokens``; a single text may have more.

    In attention, all texts of a row are padded to the longest: to at most `PADDED_TIMES` as many tokens. A long text
    among short ones would otherwise take a multiple of the memory that is estimated.
    """
    run: list[int] = []
    tokens, longest = prefix_length, 0
    for index, length in enumerate(tail_lengths):
        longest = max(longest, length)
        if run and (tokens + length > most_tokens or (len(run) + 1) * longest > PADDED_TIMES * most_tokens):
            yield run
            run, tokens, longest = [], prefix_length, length
        run.append(index)
        tokens += length
    if run:
        yield run

"""The input of the lowest layer with an adapter, for each example: computed once, because no training step changes it.

The layers below the adapters are frozen, and a text occurs in tens of steps. The forward pass through these layers is
thus computed once per text instead of once per step.
"""

from collections.abc import Sequence

import torch

from fourshot.training.lora.llama import LlamaDecoder
from fourshot.training.lora.packing import micro_batches, pack

TOGETHER = 8  # examples computed in one row: fixed groups, so the bytes do not depend on the order of requests
MOST_BYTES = 1 << 30  # limit of the kept states; a constant, because the free memory differs between starts


class FrozenStates:
    """States of examples that consist of a shared ``prefix`` and a tail each, both given as token ids."""

    def __init__(
        self, decoder: LlamaDecoder, prefix: Sequence[int], tails: Sequence[Sequence[int]], device: str
    ) -> None:
        self._decoder, self._prefix, self._tails, self._device = decoder, prefix, tails, device
        self._of_tails: dict[int, torch.Tensor] = {}
        self._of_prefix: torch.Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the prefix and all tails."""
        return len(self._prefix) + sum(map(len, self._tails))

    def of_row(self, chosen: Sequence[int], num_tokens: int, most_tokens: int) -> torch.Tensor:
        """Return the states [num_tokens, hidden_size] of a row of the prefix and the ``chosen`` tails, zero in padding.

        Missing states are computed first, in rows of at most ``most_tokens``.
        """
        if self._prefix and self._of_prefix is None:
            self._of_prefix = self._decoder.below(pack([], [self._prefix], self._device, self._decoder.row_multiple))
        for group in sorted({index // TOGETHER for index in chosen if index not in self._of_tails}):
            self._compute(range(group * TOGETHER, min((group + 1) * TOGETHER, len(self._tails))), most_tokens)
        before = [] if self._of_prefix is None else [self._of_prefix[: len(self._prefix)]]
        states = torch.cat([*before, *(self._of_tails[index] for index in chosen)])
        return torch.nn.functional.pad(states, (0, 0, 0, num_tokens - len(states)))

    def _compute(self, group: range, most_tokens: int) -> None:
        for run in micro_batches([len(self._tails[index]) for index in group], len(self._prefix), most_tokens):
            members = [group[position] for position in run]
            row = pack(
                self._prefix, [self._tails[index] for index in members], self._device, self._decoder.row_multiple
            )
            states = self._decoder.below(row)
            for index, start, length in zip(members, row.starts, row.lengths, strict=True):
                self._of_tails[index] = states[start : start + length].clone()


def fits(num_tokens: int, token_bytes: int) -> bool:
    """Whether the states of ``num_tokens`` tokens, with ``token_bytes`` each, stay within `MOST_BYTES`."""
    return num_tokens * token_bytes <= MOST_BYTES

"""Data-parallel training: each batch is divided among several processes, and the gradients are summed.

Every process has the base model and the same adapter weights; the first one reports and saves. The result is that of a
single process, except for the rounding of sums.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class BatchShare(msgspec.Struct, frozen=True, kw_only=True):
    """This process's share of each batch."""

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reports and saves."""
        return self.rank == 0

    def of(self, batch: Sequence[T]) -> Sequence[T]:
        return batch[self.rank :: self.world]

    def all_reduce(self, tensors: "Sequence[torch.Tensor]", numbers: Sequence[float]) -> list[float]:
        """Sum float32 ``tensors`` over all processes, in place, and return the summed ``numbers``."""
        if self.world == 1:
            return list(numbers)
        import torch
        from accelerate.utils import reduce

        device = tensors[0].device
        parts = [*(tensor.flatten() for tensor in tensors), torch.tensor(numbers, dtype=torch.float32, device=device)]
        summed = reduce(torch.cat(parts), reduction="sum")
        *sums, summed_numbers = summed.split([part.numel() for part in parts])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view_as(tensor))
        return [float(number) for number in summed_numbers]


ALL = BatchShare()

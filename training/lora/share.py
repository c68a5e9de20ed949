"""One training over several processes: each batch is dealt out, and the gradients are added up.

Every process holds the base and the same adapter weights; the first one tells and saves. The result is that of one
process but for the order in which sums are rounded.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class BatchShare(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of each batch is this process's."""

    rank: int = 0
    world: int = 1

    @property
    def tells(self) -> bool:
        """Whether this is the process that reports and saves."""
        return self.rank == 0

    def of(self, batch: Sequence[T]) -> Sequence[T]:
        return batch[self.rank :: self.world]

    def add_up(self, tensors: "Sequence[torch.Tensor]", numbers: Sequence[float]) -> list[float]:
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

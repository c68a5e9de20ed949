"""LoRA arithmetic for vLLM's CPU build: a few large matrix products, and no changes to rows without an adapter.

Importing this module loads vllm and torch. vLLM imports it by the name that `engine.vllm_seams.lora_kernels` returns.

vLLM 0.32 (lora/ops/torch_ops/lora_ops.py) copies the adapter's matrices once per token. It also treats a token without
adapter (slot -1) as a token of the last slot, because the index -1 counts from the end.

This module groups a step's tokens once. Long stretches of tokens that share an adapter are each multiplied by it. If
adapters alternate every few dozen tokens, the overhead of such thin products exceeds their arithmetic. Then all tokens
are multiplied by all adapters of the batch side by side. The results of other adapters are set to zero between the two
products, where a token has only ``adapters x rank`` numbers. For 8 adapters of rank 8 on SmolLM2-135M, this is a fifth
more arithmetic than the base model's, in a fifth of the time (docs/engine.md has the measurement).
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from fourshot.engine.vllm_seams import lora_loads

Stretches: TypeAlias = "list[tuple[int, slice]]"

LONG_ROWS = 128  # mean length of stretches above which each gets its own product
FEW_ROWS = 768  # number of rows up to which the slices of a layer are computed as one product
MOST_SIDE_BY_SIDE = 32  # adapters; with more, the additional arithmetic costs more than it saves


def stretches(slots: torch.Tensor) -> Stretches:
    """Return the adapter slot and the rows of each stretch of consecutive rows that share an adapter.

    ``slots`` is int [num_rows], negative for rows without an adapter, which are in no stretch.
    """
    if not len(slots):
        return []
    values, lengths = torch.unique_consecutive(slots, return_counts=True)
    runs, start = [], 0
    for slot, length in zip(values.tolist(), lengths.tolist(), strict=True):
        if slot >= 0:
            runs.append((slot, slice(start, start + length)))
        start += length
    return runs


Stacked: TypeAlias = (
    "tuple[torch.Tensor, ...]"  # one per slice of the output: [slots, 1, rank, in], [slots, 1, out, rank]
)


class GroupedLayer:
    """The adapters of one layer, with the slices of each slot adjacent in memory.

    The slices of a layer (q, k and v) share one input, but vLLM stores their weights separately. With few rows, one
    product for all slices is as fast as one for a single slice, because its cost is the fixed overhead. ``a`` and ``b``
    become views of the joined memory, so weights that vLLM writes into a slot appear here immediately.
    """

    def __init__(self, a: Stacked, b: Stacked) -> None:
        slots, _, rank, width = a[0].shape
        outs = [up.shape[2] for up in b]
        downs = a[0].new_zeros(slots, len(a) * rank, width)
        ups = b[0].new_zeros(slots, sum(outs), len(b) * rank)  # parts of other slices stay zero
        offset = 0
        for number, (down, up, out) in enumerate(zip(a, b, outs, strict=True)):
            columns = slice(number * rank, (number + 1) * rank)
            _move(down, downs[:, columns].unsqueeze(1))
            _move(up, ups[:, offset : offset + out, columns].unsqueeze(1))
            offset += out
        self.slots = [(down.t(), up.t()) for down, up in zip(downs, ups, strict=True)]
        self.parts = [
            (slice(end - out, end), slice(number * rank, (number + 1) * rank))
            for number, (end, out) in enumerate(zip(accumulate(outs), outs, strict=True))
        ]

    def add(self, slot: int, y: torch.Tensor, x: torch.Tensor, scale: float) -> None:
        """Add ``scale * x A^T B^T`` to y, for all slices of a slot. y [num_rows, all outs], x [num_rows, in]."""
        down, up = self.slots[slot]
        low = x @ down
        if len(x) <= FEW_ROWS or len(self.parts) == 1:
            _add_product(y, low, up, scale)
            return
        for outs, columns in self.parts:  # many rows: multiplying the zeros would cost more than the overhead
            _add_product(y[:, outs], low[:, columns], up[columns, outs], scale)


def _move(tensor: torch.Tensor, place: torch.Tensor) -> None:
    """Copy ``tensor`` to ``place``, and make it a view of ``place``."""
    place.copy_(tensor)
    tensor.set_(place.untyped_storage(), place.storage_offset(), place.shape, place.stride())


SideBySideWeights: TypeAlias = "tuple[torch.Tensor, list[torch.Tensor]]"


class ArrangedLayer:
    """The adapters of one layer, arranged for products side by side.

    One matrix contains A of all slices and slots. For each slice, another one contains B of all slots. A slot is copied
    here individually, when it is first used after its weights have changed. With many alternating adapters, most steps
    change only one or two slots.
    """

    def __init__(self, a: Stacked, b: Stacked) -> None:
        self._a, self._b = a, b
        slots, _, rank, width = a[0].shape
        self._downs = a[0].new_zeros(len(a), slots, rank, width)
        self._ups = [up.new_zeros(slots, rank, up.shape[2]) for up in b]
        self._copied = [-1] * slots  # version of each slot's copied weights
        self._some: tuple[tuple[int, ...], list[int], SideBySideWeights] | None = None

    def of(self, active: tuple[int, ...], versions: Sequence[int]) -> SideBySideWeights:
        """Return the ``active`` slots' matrices: A [slices * slots * rank, in], and B [slots * rank, out] per slice.

        ``versions`` has a number for each slot, which changes with the slot's weights.
        """
        for slot in active:
            if self._copied[slot] != versions[slot]:
                for number, (down, up) in enumerate(zip(self._a, self._b, strict=True)):
                    self._downs[number, slot] = down[slot, 0]
                    self._ups[number][slot] = up[slot, 0].t()
                self._copied[slot] = versions[slot]
        if len(active) == len(self._copied):
            return self._downs.flatten(0, 2), [up.flatten(0, 1) for up in self._ups]
        now = [versions[slot] for slot in active]
        if self._some is None or self._some[:2] != (active, now):
            slots = torch.tensor(active)
            downs = self._downs.index_select(1, slots).flatten(0, 2)
            self._some = active, now, (downs, [up.index_select(0, slots).flatten(0, 1) for up in self._ups])
        return self._some[2]


Made = TypeVar("Made")


class ByLayer(Generic[Made]):
    """A cache of objects made from each layer's stacked weights.

    The key of a layer is its first tensor, not the tensor's address: `GroupedLayer` moves weights, and those of another
    layer may later be stored at the old address.
    """

    def __init__(self, make: Callable[[Stacked, Stacked], Made]) -> None:
        self._make = make
        self._made: dict[int, tuple[torch.Tensor, Made]] = {}  # by tensor id; the tensor is kept, so its id is unique

    def of(self, a: Stacked, b: Stacked) -> Made:
        if id(a[0]) not in self._made:
            self._made[id(a[0])] = a[0], self._make(a, b)
        return self._made[id(a[0])][1]


class SideBySide:
    """The adapters of a batch, multiplied by all rows. Between the two products, other adapters' results become zero.

    If more than half of the slots are used in the batch, all slots are multiplied: that is less work than selecting.
    """

    def __init__(self, slots: torch.Tensor, num_slots: int, layers: ByLayer[ArrangedLayer]) -> None:
        self._slots, self._layers = slots, layers
        active = tuple(torch.unique(slots[slots >= 0]).tolist())
        is_most = num_slots < 2 * len(active) and num_slots <= MOST_SIDE_BY_SIDE
        self._active = tuple(range(num_slots)) if is_most else active
        self._versions = lora_loads.slot_versions(num_slots)
        self._masks: dict[tuple[int, int], torch.Tensor] = {}

    def _mask(self, slices: int, rank: int, dtype: torch.dtype) -> torch.Tensor:
        """Return [num_rows, slices * active * rank]: one in the columns of a row's own adapter, else zero."""
        mask = self._masks.get((slices, rank))
        if mask is None:
            is_active = (self._slots[:, None] == torch.tensor(self._active)).to(dtype)
            wide = is_active[:, None, :, None].expand(-1, slices, -1, rank)
            mask = self._masks[slices, rank] = wide.reshape(len(is_active), -1)
        return mask

    def add(self, y: torch.Tensor, x: torch.Tensor, a: Stacked, b: Stacked, scale: float) -> None:
        """Add ``scale * x A^T B^T`` of each row's own adapter to y, slice by slice."""
        downs, ups = self._layers.of(a, b).of(self._active, self._versions)
        low = (x @ downs.t()).mul_(self._mask(len(a), a[0].shape[2], x.dtype))
        offset = 0
        for up, part in zip(ups, low.chunk(len(a), dim=1), strict=True):
            _add_product(y[:, offset : offset + up.shape[1]], part, up, scale)
            offset += up.shape[1]


def _add_product(y: torch.Tensor, low: torch.Tensor, b: torch.Tensor, scale: float) -> None:
    """Add ``scale * low b`` to y in place: y [num_rows, out], low [num_rows, rank], b [rank, out].

    Products accumulate in float32. ``low`` has been rounded to the weights' dtype, as PEFT does in the trainer.
    """
    if y.dtype == low.dtype:
        y.addmm_(low, b, alpha=scale)
    else:  # the output layer's logits may have a wider dtype than the weights
        y.add_(low @ b, alpha=scale)


class GroupedPunicaWrapper(PunicaWrapperCPU):
    """vLLM's punica wrapper, with products per stretch or side by side instead of per token."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._grouped, self._arranged = ByLayer(GroupedLayer), ByLayer(ArrangedLayer)
        self._stretches: Stretches = []
        self._side_by_side: SideBySide | None = None
        self._sampled: Stretches = []

    def update_metadata(self, mapping: Any, lora_index_to_id: list[int | None], *args: Any, **kwargs: Any) -> None:
        super().update_metadata(mapping, lora_index_to_id, *args, **kwargs)
        slots = self.token_lora_indices
        self._stretches = stretches(slots)
        adapted, active = sum(rows.stop - rows.start for _, rows in self._stretches), {s for s, _ in self._stretches}
        is_short = len(self._stretches) > 1 and adapted < LONG_ROWS * len(self._stretches)
        self._side_by_side = None
        if is_short and len(active) <= MOST_SIDE_BY_SIDE:
            self._side_by_side = SideBySide(slots, len(lora_index_to_id), self._arranged)
        self._sampled = stretches(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """Add the adapters' part of a layer to y.

        Slice i has ``lora_a_stacked[i]`` [slots, 1, rank, in] and ``lora_b_stacked[i]`` [slots, 1, out_i, rank].
        """
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        if self._side_by_side is not None:
            self._side_by_side.add(y, x.to(lora_a_stacked[0].dtype), lora_a_stacked, lora_b_stacked, scale)
            return
        if not self._stretches:
            return
        layer, x = self._grouped.of(lora_a_stacked, lora_b_stacked), x.to(lora_a_stacked[0].dtype)
        for slot, rows in self._stretches:
            is_whole = rows.stop - rows.start == len(x)
            layer.add(slot, y if is_whole else y[rows], x if is_whole else x[rows], scale)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **kwargs: Any,
    ) -> None:
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        changed: dict[int, bool] = {}
        for slot, rows in self._sampled:
            a, b = lora_a_stacked[slot, 0], lora_b_stacked[slot, 0]
            if slot not in changed:  # vLLM calls this for every adapter, but most do not change this widest layer
                changed[slot] = bool(a.any())
            if changed[slot]:
                _add_product(y[rows], x[rows].to(a.dtype) @ a.t(), b.t(), scale)

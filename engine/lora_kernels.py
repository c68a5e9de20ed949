"""vLLM's CPU LoRA arithmetic, mended: few large matrix products instead of one copy per token; base rows left alone.

Importing this module loads vllm and torch: only `engine.vllm_plugin` names it.

vLLM 0.32 (lora/ops/torch_ops/lora_ops.py) copies the adapter's matrices once per token, and takes a token without
adapter (slot -1) for a token of the last slot (-1 counts from the end).

Here a step's tokens are looked at once. Where long stretches of them share an adapter, each stretch is multiplied with
its own. Where adapters alternate after some tens of tokens, products so thin cost more in overhead than in arithmetic:
then all tokens are multiplied with all adapters of the batch side by side, and what is not theirs is set to zero in
between, where a token is ``adapters x rank`` numbers wide. That is more arithmetic (for 8 adapters of rank 8 on
SmolLM2-135M a fifth of the base's) in a fifth of the time (docs/engine.md has the measurement).
"""

from typing import Any, TypeAlias

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from engine import lora_loads

Stretches: TypeAlias = "list[tuple[int, slice]]"

LONG_ROWS = 128  # mean length of stretches from which they are worth products of their own
MOST_SIDE_BY_SIDE = 32  # adapters; with more of them the arithmetic outgrows what it saves


def stretches(slots: torch.Tensor) -> Stretches:
    """Adapter slot and rows of each stretch of rows that share one. ``slots`` is int [num_rows], negative for none."""
    if not len(slots):
        return []
    values, lengths = torch.unique_consecutive(slots, return_counts=True)
    found, start = [], 0
    for slot, length in zip(values.tolist(), lengths.tolist(), strict=True):
        if slot >= 0:
            found.append((slot, slice(start, start + length)))
        start += length
    return found


Stacked: TypeAlias = (
    "tuple[torch.Tensor, ...]"  # one per slice of the output: [slots, 1, rank, in], [slots, 1, out, rank]
)


class Arranged:
    """Adapters' weights as products side by side need them: arranged once, until a slot gets other weights."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int, tuple[int, ...], torch.Tensor, list[torch.Tensor]]] = {}  # by layer

    def of(self, active: tuple[int, ...], a: Stacked, b: Stacked) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Of the ``active`` slots: all A's [slices * active * rank, in], and of each slice B [out, active * rank]."""
        layer, changes = a[0].data_ptr(), lora_loads.slot_changes()
        kept = self._kept.get(layer)
        if kept is None or kept[:2] != (changes, active):
            slots = torch.tensor(active)
            downs = torch.cat([one[:, 0].index_select(0, slots).flatten(0, 1) for one in a])
            ups = [one[:, 0].index_select(0, slots).transpose(0, 1).flatten(1) for one in b]
            self._kept[layer] = kept = (changes, active, downs, ups)
        return kept[2], kept[3]


class SideBySide:
    """The adapters of a batch, all multiplied with all rows; what is not a row's own is zero in between."""

    def __init__(self, slots: torch.Tensor, arranged: Arranged) -> None:
        self._slots, self._arranged = slots, arranged
        self._active = tuple(torch.unique(slots[slots >= 0]).tolist())
        self._masks: dict[tuple[int, int], torch.Tensor] = {}

    def _mask(self, slices: int, rank: int, dtype: torch.dtype) -> torch.Tensor:
        """[num_rows, slices * active * rank]: one where a row's adapter is."""
        found = self._masks.get((slices, rank))
        if found is None:
            own = (self._slots[:, None] == torch.tensor(self._active)).to(dtype)
            wide = own[:, None, :, None].expand(-1, slices, -1, rank)
            found = self._masks[slices, rank] = wide.reshape(len(own), -1)
        return found

    def add(self, y: torch.Tensor, x: torch.Tensor, a: Stacked, b: Stacked, scale: float) -> None:
        """Add every row's own ``scale * x A^T B^T`` to y, slice by slice."""
        downs, ups = self._arranged.of(self._active, a, b)
        low = (x @ downs.t()).mul_(self._mask(len(a), a[0].shape[2], x.dtype))
        offset = 0
        for up, part in zip(ups, low.chunk(len(a), dim=1), strict=True):
            _add_product(y[:, offset : offset + len(up)], part, up, scale)
            offset += len(up)


def add_low_rank(
    y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, rows: slice, offset: int, scale: float
) -> None:
    """``y[rows, offset:offset + out] += scale * x[rows] @ a.T @ b.T``, in place.

    y [num_rows, >= offset + out], x [num_rows, in], a [rank, in], b [out, rank]. The products accumulate in float32;
    the one in between is rounded to the weights' type, which is what PEFT does in the trainer.
    """
    _add_product(y[rows, offset : offset + b.shape[0]], x[rows].to(a.dtype) @ a.t(), b, scale)


def _add_product(y: torch.Tensor, low: torch.Tensor, b: torch.Tensor, scale: float) -> None:
    if y.dtype == low.dtype:
        y.addmm_(low, b.t(), alpha=scale)
    else:  # the output layer's logits may be wider than the weights
        y.add_(low @ b.t(), alpha=scale)


class GroupedPunicaWrapper(PunicaWrapperCPU):
    """vLLM's punica wrapper with the products done per stretch or side by side instead of per token."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arranged = Arranged()
        self._stretches: Stretches = []
        self._side_by_side: SideBySide | None = None
        self._sampled: Stretches = []

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        slots = self.token_lora_indices
        self._stretches = stretches(slots)
        adapted, active = sum(rows.stop - rows.start for _, rows in self._stretches), {s for s, _ in self._stretches}
        short = len(self._stretches) > 1 and adapted < LONG_ROWS * len(self._stretches)
        self._side_by_side = SideBySide(slots, self._arranged) if short and len(active) <= MOST_SIDE_BY_SIDE else None
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
        """Slice i of y: ``lora_a_stacked[i]`` [slots, 1, rank, in], ``lora_b_stacked[i]`` [slots, 1, out_i, rank]."""
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        if self._side_by_side is not None:
            self._side_by_side.add(y, x.to(lora_a_stacked[0].dtype), lora_a_stacked, lora_b_stacked, scale)
            return
        offset = 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            for slot, rows in self._stretches:
                add_low_rank(y, x, a[slot, 0], b[slot, 0], rows, offset, scale)
            offset += width

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
            if slot not in changed:  # vLLM calls this for every adapter; most leave the output layer alone, the widest
                changed[slot] = bool(a.any())
            if changed[slot]:
                add_low_rank(y, x, a, b, rows, 0, scale)

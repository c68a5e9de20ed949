"""vLLM's CPU LoRA arithmetic, mended: one matrix product per adapter in the batch, and base rows left alone.

Importing this module loads vllm and torch: only `engine.vllm_plugin` names it.

vLLM 0.32 (lora/ops/torch_ops/lora_ops.py) copies the adapter's matrices once per token, and takes a token without
adapter (slot -1) for a token of the last slot (-1 counts from the end). Here tokens are grouped by slot once per
step, and a token without adapter is in no group.
"""

from typing import Any, TypeAlias

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

Rows: TypeAlias = "slice | torch.Tensor"
Groups: TypeAlias = "list[tuple[int, Rows]]"


def group_rows(slots: torch.Tensor) -> Groups:
    """Rows of each adapter slot. ``slots`` is int [num_rows], negative for a row without adapter.

    Rows of one slot that lie together come as a slice, which needs no copy; others as an index tensor.
    """
    groups: Groups = []
    for slot in torch.unique(slots).tolist():
        if slot < 0:
            continue
        rows = torch.nonzero(slots == slot).squeeze(1)
        first, last = int(rows[0]), int(rows[-1]) + 1
        groups.append((slot, slice(first, last) if last - first == len(rows) else rows))
    return groups


def add_low_rank(
    y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, rows: Rows, offset: int, scale: float
) -> None:
    """``y[rows, offset:offset + out] += scale * x[rows] @ a.T @ b.T``, in place.

    y [num_rows, >= offset + out], x [num_rows, in], a [rank, in], b [out, rank]. The products accumulate in float32
    and are rounded to the weights' type, which is what PEFT does in the trainer.
    """
    inner = x[rows].to(a.dtype) @ a.t()
    if scale != 1.0:
        inner *= scale
    target = y[:, offset : offset + b.shape[0]]
    if isinstance(rows, slice):
        target[rows].add_(inner @ b.t())
    else:
        target.index_add_(0, rows, (inner @ b.t()).to(y.dtype))


class GroupedPunicaWrapper(PunicaWrapperCPU):
    """vLLM's punica wrapper with the products done per adapter instead of per token."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._token_groups: Groups = []
        self._sampler_groups: Groups = []

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        self._token_groups = group_rows(self.token_lora_indices)
        self._sampler_groups = group_rows(self.sampler_indices)

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
        for slot, rows in self._token_groups:
            offset = 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
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
        for slot, rows in self._sampler_groups:
            a, b = lora_a_stacked[slot, 0], lora_b_stacked[slot, 0]
            if a.any():  # vLLM calls this for every adapter; most leave the output layer alone, and it is the widest
                add_low_rank(y, x, a, b, rows, 0, scale)

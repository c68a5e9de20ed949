"""Attention masks of a packed row in the form that the base model's decoder expects, including sliding windows."""

from typing import Any

import torch

from fourshot.training.lora.packing import PackedRow

SLIDING, FULL = "sliding_attention", "full_attention"


def attention_mask(row: PackedRow, config: Any, dtype: torch.dtype) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return an additive mask [1, 1, T, T] for a decoder of ``config``, or one for each kind of its layers.

    transformers uses a complete mask unchanged, so the mask must include the window.
    """
    full, window = row.mask(dtype), getattr(config, "sliding_window", None)
    if not window or int(row.position_ids.max()) < window:  # no text exceeds the window: one mask for all layers
        return full
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds == {FULL}:
        return full
    positions = row.position_ids[0]
    far = positions[:, None] - positions[None, :] >= window
    sliding = full.masked_fill(far[None, None], torch.finfo(dtype).min)
    return {FULL: full, SLIDING: sliding} if SLIDING in kinds else sliding

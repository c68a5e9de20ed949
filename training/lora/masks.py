"""What each token of a packed row may attend to, as the base's decoder wants it: sliding windows included."""

from typing import Any

import torch

from fourshot.training.lora.packing import PackedRow

SLIDING, FULL = "sliding_attention", "full_attention"


def attention_mask(row: PackedRow, config: Any, dtype: torch.dtype) -> torch.Tensor | dict[str, torch.Tensor]:
    """For a decoder of ``config``: one additive mask [1, 1, T, T], or one for each kind of its layers.

    A mask that is given whole is taken as it is by transformers, so the window has to be in it.
    """
    full, window = row.mask(dtype), getattr(config, "sliding_window", None)
    if not window or int(row.position_ids.max()) < window:  # no text is longer: both kinds of layers see the same
        return full
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds == {FULL}:
        return full
    positions = row.position_ids[0]
    far = positions[:, None] - positions[None, :] >= window
    sliding = full.masked_fill(far[None, None], torch.finfo(dtype).min)
    return {FULL: full, SLIDING: sliding} if SLIDING in kinds else sliding

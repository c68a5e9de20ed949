"""Root mean square normalisation, forward and backward, at each place where Llama-like families apply it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Norm(NamedTuple):
    """Parameters of a normalisation module."""

    gain: Tensor  # [width], or [heads, width]
    epsilon: float

    @classmethod
    def of(cls, module: Any) -> "Norm | None":
        """Return the parameters of ``module``; None if the family has no norm at this place."""
        return None if module is None else cls(module.weight.detach(), module.variance_epsilon)


class SavedNorm(NamedTuple):
    """Values that a normalisation keeps for its gradient."""

    unit: Tensor  # [..., width]: the input over its root mean square
    inverse: Tensor  # float32 [..., 1]: one over the root mean square


def rms_normalise(x: Tensor, norm: Norm, out: Tensor) -> SavedNorm:
    """Write x [..., width] divided by its root mean square, times the gain, to ``out``, which may be x."""
    wide = x.float()
    inverse = wide.square().mean(-1, keepdim=True).add_(norm.epsilon).rsqrt_()
    unit = (wide * inverse).to(x.dtype)
    torch.mul(unit, norm.gain, out=out)
    return SavedNorm(unit, inverse)


def normalise_backward(g: Tensor, norm: Norm, kept: SavedNorm) -> Tensor:
    """Return the gradient of x, given ``g``, that of the normalised x. ``g`` is overwritten."""
    wide, of_unit = kept.unit.float(), g.mul_(norm.gain).float()
    inner = (wide * of_unit).mean(-1, keepdim=True)
    return of_unit.addcmul_(wide, inner, value=-1).mul_(kept.inverse).to(g.dtype)


def enter(x: Tensor, norm: Norm | None, out: Tensor) -> SavedNorm | None:
    """Write a block's input to ``out``: x, normalised if there is a norm."""
    if norm:
        return rms_normalise(x, norm, out)
    out.copy_(x)
    return None


def leave(x: Tensor, y: Tensor, norm: Norm | None) -> tuple[Tensor, SavedNorm | None]:
    """Return x plus a block's output ``y``, which is normalised if there is a norm. ``y`` is overwritten."""
    kept = rms_normalise(y, norm, y) if norm else None
    return y.add_(x), kept


def through(g: Tensor, norm: Norm | None, kept: SavedNorm | None) -> Tensor:
    """Return the gradient of a norm's input, given that of its output, ``g`` (overwritten); ``g`` without a norm."""
    return normalise_backward(g, norm, kept) if norm and kept else g


class LayerNorms:
    """Norms of one layer: before attention and MLP (Llama) or after them (OLMo 2), and those of queries and keys."""

    def __init__(self, layer: Any, heads: int, kv_heads: int, size: int) -> None:
        first = getattr(layer, "input_layernorm", None)
        after = first is None
        self.before_attention = Norm.of(first)
        self.after_attention = Norm.of(layer.post_attention_layernorm if after else None)
        self.before_mlp = Norm.of(None if after else layer.post_attention_layernorm)
        self.after_mlp = Norm.of(layer.post_feedforward_layernorm if after else None)
        q, k = (Norm.of(getattr(layer.self_attn, name, None)) for name in ("q_norm", "k_norm"))
        # Columns of q, k and v that are normalised as [T, *gain.shape]: in each head (Qwen 3), or over all (OLMo 2).
        self._parts: list[tuple[slice, Norm]] = []
        if q and k and q.gain.numel() == size:
            gain = torch.cat([q.gain.expand(heads, size), k.gain.expand(kv_heads, size)])
            self._parts = [(slice(0, (heads + kv_heads) * size), Norm(gain, q.epsilon))]
        elif q and k:
            split = heads * size
            self._parts = [(slice(0, split), q), (slice(split, split + kv_heads * size), k)]

    def queries_and_keys(self, qkv: Tensor) -> list[SavedNorm]:
        """Normalise queries and keys in ``qkv`` [T, (heads + 2 * kv_heads) * size] in place, if the family does so."""
        parts = [(qkv[:, columns].unflatten(1, norm.gain.shape), norm) for columns, norm in self._parts]
        return [rms_normalise(part, norm, part) for part, norm in parts]

    def queries_and_keys_backward(self, g: Tensor, kept: list[SavedNorm]) -> None:
        """Turn ``g``, the gradient of the normalised ``qkv``, into that of the original ``qkv``, in place."""
        for (columns, norm), normed in zip(self._parts, kept, strict=True):
            part = g[:, columns].unflatten(1, norm.gain.shape)
            part.copy_(normalise_backward(part, norm, normed))

"""The one place that decides in which number format a model is trained."""

from typing import Literal

import msgspec


class Precision(msgspec.Struct, frozen=True, kw_only=True):
    """``base``: frozen weights and activations. Adapter weights are computed in the same, and updated in float32."""

    base: Literal["bfloat16", "float16", "float32"]
    loss_scaling: bool = False


def choose_precision(capability: tuple[int, int] | None) -> Precision:
    """Policy by CUDA compute capability, None on the CPU.

    bfloat16 on the CPU and from capability 8.0 on; float16 with loss scaling below (V100, T4: no bfloat16 there).
    """
    if capability is None or capability >= (8, 0):
        return Precision(base="bfloat16")
    return Precision(base="float16", loss_scaling=True)

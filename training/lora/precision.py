"""The number format in which a model is trained."""

from typing import Literal

import msgspec


class Precision(msgspec.Struct, frozen=True, kw_only=True):
    """``base``: format of frozen weights and activations. Adapters are computed in it too, and updated in float32."""

    base: Literal["bfloat16", "float16", "float32"]
    loss_scaling: bool = False


def choose_precision(capability: tuple[int, int] | None) -> Precision:
    """Return the format for a CUDA compute capability; None stands for the CPU.

    It is bfloat16 on the CPU and from capability 8.0 on. Below (V100, T4), without bfloat16, it is float16 with loss
    scaling.
    """
    if capability is None or capability >= (8, 0):
        return Precision(base="bfloat16")
    return Precision(base="float16", loss_scaling=True)

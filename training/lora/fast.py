"""The LoRA layer as a single autograd step.

PEFT's layer adds ``scaling * B(A(x))`` to the base layer's output with five operations. For each, autograd keeps
tensors and runs two more operations in the backward pass. For rows of a few hundred tokens these cost as much as the
products. Here the layer is one function that writes both products directly into the output. It keeps only what its
gradient needs: ``x`` and ``x A^T``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class LoraLinear(torch.autograd.Function):
    """``y = x W^T + scaling * (x A^T) B^T`` and its gradients for x, A and B; W is frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        """x [..., in], weight [out, in], bias [out], a [rank, in], b [out, rank] -> [..., out]."""
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ a.t()
        y = torch.nn.functional.linear(rows, weight, bias).addmm_(low, b.t(), alpha=scaling)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scaling = scaling
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, a, b = ctx.saved_tensors
        (gradient,) = gradients
        g = gradient.reshape(-1, gradient.shape[-1])
        g_low = (g @ b).mul_(ctx.scaling)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (g @ weight).addmm_(g_low, a).view(*gradient.shape[:-1], -1)
        return of_x, None, None, g_low.t() @ rows, (g.t() @ low).mul_(ctx.scaling), None


def speed_up(wrapped: Any) -> int:
    """Make the plain LoRA layers of a PEFT model compute with `LoraLinear`; return their number.

    A layer keeps PEFT's own forward if it has dropout, a variant of LoRA, or a base layer other than
    ``torch.nn.Linear``.
    """
    count = 0
    for module in wrapped.modules():
        if is_plain(module):
            module.forward = _forward(module)
            count += 1
    return count


def _forward(layer: Any) -> Callable[[Tensor], Tensor]:
    """Return the replacement for the ``forward`` of one PEFT layer."""
    (name,) = layer.active_adapters
    base, scaling, a, b = layer.base_layer, float(layer.scaling[name]), layer.lora_A[name], layer.lora_B[name]
    return lambda x: LoraLinear.apply(x, base.weight, base.bias, a.weight, b.weight, scaling)


def is_plain(module: Any, *, dropout: bool = False) -> bool:
    """Whether ``module`` is a PEFT layer that computes just what `LoraLinear` does; ``dropout`` allows dropout too."""
    from peft.tuners.lora import Linear

    if not isinstance(module, Linear) or type(module.base_layer) is not torch.nn.Linear:
        return False
    names, allowed = module.active_adapters, (torch.nn.Identity, *([torch.nn.Dropout] if dropout else []))
    return (
        len(names) == 1
        and isinstance(module.lora_dropout[names[0]], allowed)
        and names[0] not in module.lora_variant
        and not module.lora_bias[names[0]]
    )

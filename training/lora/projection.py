"""Frozen linear layers with LoRA, in all layers of a decoder: forward and backward products, and gradients."""

import platform
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fourshot.engine.machine.memory import free_bytes

TYPICAL_ROWS = 256  # a hint for the packed layout; any number of rows can be multiplied
PACKED_SHARE = 0.25  # of the free memory that packed weights may use


def frozen_linear(module: Any) -> Any:
    """Return the frozen linear layer of ``module``, which may be wrapped in an adapter."""
    return getattr(module, "base_layer", module)


class FrozenLinear:
    """A linear layer of the base model, weight [out, in], or several as one, with forward and backward products.

    oneDNN repacks a weight before each product. With ``packed`` this is done once for both directions, and takes
    additional memory of twice the weight. A layer that is not ``trained_through`` has the forward direction only.
    """

    def __init__(self, layers: Sequence[Any], packed: bool, trained_through: bool = True) -> None:
        self._packed, weights = packed, [layer.weight for layer in layers]
        biases = [layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers]
        self._bias = torch.cat(biases).detach() if any(layer.bias is not None for layer in layers) else None
        if packed:
            stacked = torch.cat([weight.detach() for weight in weights])
            self._packed_weight = _pack(stacked)
            self._packed_transposed = _pack(stacked.t().contiguous()) if trained_through else None
        else:
            self._weight = _stacked(weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + bias [T, out], for x [T, in]."""
        if self._packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed_weight, self._bias, "none", [], "")
            return y
        if self._bias is not None:
            return torch.addmm(self._bias, x, self._weight.t())
        return torch.mm(x, self._weight.t())

    def backward(self, g: Tensor) -> Tensor:
        """Return g W [T, in], for g [T, out]."""
        if self._packed:
            of_x: Tensor = torch.ops.mkldnn._linear_pointwise(g, self._packed_transposed, None, "none", [], "")
            return of_x
        return torch.mm(g, self._weight)


def pays_to_pack(weights: Sequence[Tensor]) -> bool:
    """Whether packed copies of ``weights`` are faster on this hardware, and fit into memory."""
    first = weights[0]
    if first.device.type != "cpu" or first.dtype != torch.bfloat16 or platform.machine() not in ("x86_64", "AMD64"):
        return False
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return 2 * sum(weight.nbytes for weight in weights) < PACKED_SHARE * free_bytes("cpu")


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)
    return packed


def _stacked(weights: Sequence[Any]) -> Tensor:
    """Return the weights [out_i, in] as one tensor [sum of out_i, in].

    The weights become views of it, so there is no second copy of the base model. If they are contiguous views already,
    after an earlier training on this base, nothing is copied.
    """
    first, width = weights[0], weights[0].shape[1]
    rows = sum(len(weight) for weight in weights)
    offset, together = first.storage_offset(), True
    for weight in weights:
        is_shared = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        together = together and is_shared and weight.is_contiguous() and weight.storage_offset() == offset
        offset += weight.numel()
    with torch.no_grad():
        if together:
            return first.detach().as_strided((rows, width), (width, 1), first.storage_offset())
        stacked = torch.cat([weight.detach() for weight in weights])
        for weight, part in zip(weights, stacked.split([len(weight) for weight in weights]), strict=True):
            weight.data = part
    return stacked


class Projection:
    """Linear layers with the same input, in all decoder layers: ``y = x W^T + scaling * (x A^T) B^T``.

    A is stacked, and B is a block-diagonal matrix whose other blocks stay zero. One tensor contains those of all L
    layers with adapters. So the optimizer has few tensors, and gradients of several layers are one product.
    """

    def __init__(self, layers: Sequence[Sequence[Any]], first: int, *, packed: bool) -> None:
        """``layers``: for each decoder layer, the linear layers with the same input, with PEFT's adapters around them.

        Decoder layers before number ``first`` have no adapters. In the others, a linear layer without an adapter is
        treated as one of rank 0.
        """
        self._first = first
        self._layers = [[_Adapter(linear) for linear in group] for group in layers[first:]]
        self._frozen = [
            FrozenLinear([frozen_linear(linear) for linear in group], packed, trained_through=layer >= first)
            for layer, group in enumerate(layers)
        ]
        downs = [torch.cat([adapter.down for adapter in group]) for group in self._layers]
        ups = [torch.block_diag(*(adapter.up for adapter in group)) for group in self._layers]
        self.a = torch.stack(downs).requires_grad_(True)  # [L, rank, in]
        self.b = torch.stack([up.t() for up in ups]).requires_grad_(True)  # [L, rank, out], B transposed
        self.scaling = max(adapter.scaling for adapter in self._layers[0])
        blocks = [torch.full_like(adapter.up, self.scaling) for adapter in self._layers[0]]
        self._scale = torch.block_diag(*blocks).t()  # [rank, out], factor of B's gradient: 0 outside the blocks
        # Views of each layer, created once instead of thousands of times per step.
        self._a = dict(enumerate(self.a.detach().unbind(), first))
        self._b = dict(enumerate(self.b.detach().unbind(), first))
        self._a_t, self._b_t = ({layer: view.t() for layer, view in views.items()} for views in (self._a, self._b))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Width of the input, sum of the ranks, and width of the output."""
        return self.a.shape[2], self.a.shape[1], self.b.shape[2]

    @property
    def dropout(self) -> float:
        """The share of an adapter's input that is dropped; 0 outside training."""
        return max(adapter.dropout for adapter in self._layers[0])

    def mask(self, x: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return a dropout mask like x for all its layers, where PEFT samples one for each; None without dropout."""
        share = 1 - self.dropout
        return torch.empty_like(x).bernoulli_(share, generator=generator).div_(share) if share < 1 else None

    def forward(self, layer: int, x: Tensor, low: Tensor, mask: Tensor | None) -> Tensor:
        """Return y [T, out] for x [T, in], and write x A^T to ``low`` [T, rank].

        With ``mask``, x is multiplied by it in place, because `weight_gradients` needs the adapters' input.
        """
        y = self._frozen[layer].forward(x)
        if layer < self._first:
            return y
        torch.mm(x if mask is None else x.mul_(mask), self._a_t[layer], out=low)
        return y.addmm_(low, self._b[layer], alpha=self.scaling)

    def low_gradient(self, layer: int, g: Tensor, of_low: Tensor) -> None:
        """Write the gradient of x A^T to ``of_low`` [T, rank], given g [T, out], the gradient of y."""
        torch.mm(g, self._b_t[layer], out=of_low).mul_(self.scaling)

    def backward(self, layer: int, g: Tensor, of_low: Tensor, mask: Tensor | None) -> Tensor:
        """Return the gradient of x [T, in], given g [T, out]; write that of x A^T to ``of_low`` [T, rank]."""
        self.low_gradient(layer, g, of_low)
        of_x = self._frozen[layer].backward(g)
        if mask is None:
            return of_x.addmm_(of_low, self._a[layer])
        return of_x.addcmul_(torch.mm(of_low, self._a[layer]), mask)

    def new_gradients(self) -> tuple[Tensor, Tensor]:
        return torch.empty_like(self.a), torch.empty_like(self.b)

    def weight_gradients(
        self, span: range, gradients: tuple[Tensor, Tensor], x: Tensor, low: Tensor, g: Tensor, of_low: Tensor
    ) -> None:
        """Write the gradients of A and B for the layers of ``span`` to ``gradients``.

        The others are [len(span), T, ...]: x, x A^T (``low``), and the gradients of y (``g``) and of x A^T
        (``of_low``).
        """
        of_a, of_b = (gradient[span.start - self._first : span.stop - self._first] for gradient in gradients)
        torch.bmm(of_low.transpose(1, 2), x, out=of_a)
        torch.bmm(low.transpose(1, 2), g, out=of_b).mul_(self._scale)

    def write_back(self) -> None:
        """Copy the adapters' weights to PEFT's layers."""
        for group, a, b in zip(self._layers, self._a.values(), self._b.values(), strict=True):
            row = column = 0
            for adapter in group:
                out, rank = adapter.up.shape
                adapter.down.copy_(a[column : column + rank])
                adapter.up.copy_(b[column : column + rank, row : row + out].t())
                row, column = row + out, column + rank


class _Adapter:
    """The adapter of one linear layer; of rank 0 if the layer has no PEFT adapter."""

    def __init__(self, linear: Any) -> None:
        if linear is frozen_linear(linear):
            weight, self.scaling, self._dropout = linear.weight, 0.0, None
            self.down, self.up = weight.new_empty(0, weight.shape[1]), weight.new_empty(weight.shape[0], 0)
        else:
            (name,) = linear.active_adapters
            self.down, self.up = linear.lora_A[name].weight.detach(), linear.lora_B[name].weight.detach()
            self.scaling, self._dropout = float(linear.scaling[name]), linear.lora_dropout[name]

    @property
    def dropout(self) -> float:
        return float(getattr(self._dropout, "p", 0.0)) if self._dropout and self._dropout.training else 0.0

"""A frozen linear layer with LoRA, in all layers of a decoder: its products there and back, and its gradients."""

import platform
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fourshot.engine.memory import free_bytes

TYPICAL_ROWS = 256  # packing may choose by it; any number of rows can be multiplied
PACKED_SHARE = 0.25  # of the free memory that packed weights may take


class Frozen:
    """A base's weight [out, in], or several as one, to be multiplied from both sides.

    oneDNN rearranges a weight before each product. ``packed``, this is done once, for both directions, and costs
    another two times the weight's memory.
    """

    def __init__(self, weights: Sequence[Any], packed: bool) -> None:
        self._packed = packed
        if packed:
            whole = torch.cat([weight.detach() for weight in weights])
            self._there, self._back = _pack(whole), _pack(whole.t().contiguous())
        else:
            self._weight = _stacked(weights)

    def there(self, x: Tensor) -> Tensor:
        """x [T, in] -> x W^T [T, out]."""
        if self._packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._there, None, "none", [], "")
            return y
        return torch.mm(x, self._weight.t())

    def back(self, g: Tensor) -> Tensor:
        """g [T, out] -> g W [T, in]."""
        if self._packed:
            of_x: Tensor = torch.ops.mkldnn._linear_pointwise(g, self._back, None, "none", [], "")
            return of_x
        return torch.mm(g, self._weight)


def pays_to_pack(weights: Sequence[Tensor]) -> bool:
    """Whether packed copies of ``weights`` are faster here, and fit into memory."""
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
    """The weights [out_i, in] as one [sum of out_i, in] that they become views of: there is no second copy of a base.

    Weights that lie so already, from an earlier training on this base, stay where they are.
    """
    first, width = weights[0], weights[0].shape[1]
    rows = sum(len(weight) for weight in weights)
    offset, together = first.storage_offset(), True
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        together = together and same and weight.is_contiguous() and weight.storage_offset() == offset
        offset += weight.numel()
    with torch.no_grad():
        if together:
            return first.detach().as_strided((rows, width), (width, 1), first.storage_offset())
        whole = torch.cat([weight.detach() for weight in weights])
        for weight, part in zip(weights, whole.split([len(weight) for weight in weights]), strict=True):
            weight.data = part
    return whole


class Projection:
    """Linear layers that read the same input, in all L decoder layers: ``y = x W^T + scaling * (x A^T) B^T``.

    A is stacked, B a block-diagonal matrix whose other blocks stay zero. One tensor holds those of all layers, so that
    the optimizer has few tensors, and gradients of several layers are one product.
    """

    def __init__(self, layers: Sequence[Sequence[Any]], *, packed: bool) -> None:
        """``layers`` are PEFT's, those that read the same input for each decoder layer; one active adapter each."""
        (name,) = layers[0][0].active_adapters
        self._layers, self._name = layers, name
        self._frozen = [Frozen([linear.base_layer.weight for linear in group], packed) for group in layers]
        downs = [torch.cat([linear.lora_A[name].weight.detach() for linear in group]) for group in layers]
        ups = [torch.block_diag(*(linear.lora_B[name].weight.detach() for linear in group)) for group in layers]
        self.a = torch.stack(downs).requires_grad_(True)  # [L, rank, in]
        self.b = torch.stack([up.t() for up in ups]).requires_grad_(True)  # [L, rank, out], B transposed
        self.scaling = float(layers[0][0].scaling[name])
        blocks = [torch.full_like(linear.lora_B[name].weight, self.scaling).detach() for linear in layers[0]]
        self._scale = torch.block_diag(*blocks).t()  # [rank, out], of B's gradient: 0 off the blocks
        # Views of each layer, made once: a step would make thousands.
        self._a, self._b = self.a.detach().unbind(), self.b.detach().unbind()
        self._a_t, self._b_t = [a.t() for a in self._a], [b.t() for b in self._b]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of the input, of all ranks together, of the output."""
        return self.a.shape[2], self.a.shape[1], self.b.shape[2]

    def forward(self, layer: int, x: Tensor, low: Tensor) -> Tensor:
        """x [T, in] -> y [T, out]; writes x A^T to ``low`` [T, rank]."""
        torch.mm(x, self._a_t[layer], out=low)
        return self._frozen[layer].there(x).addmm_(low, self._b[layer], alpha=self.scaling)

    def low_gradient(self, layer: int, g: Tensor, of_low: Tensor) -> None:
        """Write the gradient of x A^T to ``of_low`` [T, rank], from g [T, out]."""
        torch.mm(g, self._b_t[layer], out=of_low).mul_(self.scaling)

    def backward(self, layer: int, g: Tensor, of_low: Tensor) -> Tensor:
        """The gradient for x [T, in], from g [T, out]; writes that of x A^T to ``of_low`` [T, rank]."""
        self.low_gradient(layer, g, of_low)
        return self._frozen[layer].back(g).addmm_(of_low, self._a[layer])

    def new_gradients(self) -> tuple[Tensor, Tensor]:
        return torch.empty_like(self.a), torch.empty_like(self.b)

    def weight_gradients(
        self, span: range, gradients: tuple[Tensor, Tensor], x: Tensor, low: Tensor, g: Tensor, of_low: Tensor
    ) -> None:
        """Write gradients of A and B for the layers of ``span``, from what these layers read and wrote.

        Each [len(span), T, ...]: x, x A^T, the gradients of y and of x A^T.
        """
        of_a, of_b = (whole[span.start : span.stop] for whole in gradients)
        torch.bmm(of_low.transpose(1, 2), x, out=of_a)
        torch.bmm(low.transpose(1, 2), g, out=of_b).mul_(self._scale)

    def write_back(self) -> None:
        """Give the adapters' weights to PEFT's layers."""
        with torch.no_grad():
            for group, a, b in zip(self._layers, self._a, self._b, strict=True):
                row = column = 0
                for linear in group:
                    down, up = linear.lora_A[self._name].weight, linear.lora_B[self._name].weight
                    rank, out = down.shape[0], up.shape[0]
                    down.copy_(a[column : column + rank])
                    up.copy_(b[column : column + rank, row : row + out].t())
                    row, column = row + out, column + rank

"""Forward and backward of a Llama decoder with LoRA on all projections, with as few operations as there can be.

For rows of some hundred tokens a step is bound by the number of operations, not by their size: of SmolLM2-135M's 0.27 s
on two cores the base's matrix products are 0.09. The modules of transformers and PEFT run some 5,000 operations per
step, and attend from every token of a packed row to every other. Here

- projections that read the same input (q, k, v; gate, up) are one product, and so are their LoRA parts: A stacked, B as
  a block-diagonal matrix whose other blocks stay zero,
- normalisation, rotation and attention are one step of autograd each, with their gradients written out,
- each text attends to the instruction and to itself only.

The gradients are tested against those of transformers and PEFT. Whatever is not such a model goes through these.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.packing import PackedRow

GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


class Projection:
    """Linear layers that read the same input, as one with LoRA: ``y = x W^T + scaling * (x A^T) B^T``."""

    def __init__(self, layers: Sequence[Any]) -> None:
        """``layers`` are PEFT's, each with one active adapter."""
        (name,) = layers[0].active_adapters
        self._layers, self._name = layers, name
        bases = [layer.base_layer.weight for layer in layers]
        self.weight = _stacked(bases)  # [out, in]
        downs = [layer.lora_A[name].weight.detach() for layer in layers]
        ups = [layer.lora_B[name].weight.detach() for layer in layers]
        self.a = torch.cat(downs).requires_grad_(True)  # [layers * rank, in]
        self.b = torch.block_diag(*ups).requires_grad_(True)  # [out, layers * rank]
        scaling = float(layers[0].scaling[name])
        self.scale = torch.block_diag(
            *(torch.full_like(up, scaling) for up in ups)
        )  # of B's gradient: 0 off the blocks
        self.scaling = scaling

    def write_back(self) -> None:
        """Give the adapters' weights to PEFT's layers."""
        row = column = 0
        with torch.no_grad():
            for layer in self._layers:
                down, up = layer.lora_A[self._name].weight, layer.lora_B[self._name].weight
                rank, out = down.shape[0], up.shape[0]
                down.copy_(self.a[column : column + rank])
                up.copy_(self.b[row : row + out, column : column + rank])
                row, column = row + out, column + rank


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


def _project(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """x [T, in] -> y [T, out] and x A^T [T, rank]."""
    low = x @ a.t()
    return torch.mm(x, weight.t()).addmm_(low, b.t(), alpha=scaling), low


def _project_backward(
    g: Tensor, x: Tensor, low: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for x, A and B, from g [T, out]."""
    g_low = (g @ b).mul_(scaling)
    return torch.mm(g, weight).addmm_(g_low, a), g_low.t() @ x, (g.t() @ low).mul_(scale)


class NormProject(torch.autograd.Function):
    """Root-mean-square normalisation, then a projection."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, projection: Projection, a: Tensor, b: Tensor) -> Tensor:
        wide = x.float()
        inverse = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        unit = (wide * inverse).to(x.dtype)
        scaled = unit * gain
        y, low = _project(scaled, projection.weight, a, b, projection.scaling)
        ctx.save_for_backward(unit, inverse, gain, scaled, low, a, b)
        ctx.projection = projection
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        unit, inverse, gain, scaled, low, a, b = ctx.saved_tensors
        one = ctx.projection
        g, of_a, of_b = _project_backward(gradients[0], scaled, low, one.weight, a, b, one.scale, one.scaling)
        of_x = None
        if ctx.needs_input_grad[0]:
            wide, g_unit = unit.float(), (g * gain).float()
            inner = (wide * g_unit).mean(-1, keepdim=True)
            of_x = g_unit.addcmul_(wide, inner, value=-1).mul_(inverse).to(unit.dtype)
        return of_x, None, None, None, of_a, of_b


class ProjectAdd(torch.autograd.Function):
    """A projection added to what it bypasses."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, projection: Projection, a: Tensor, b: Tensor) -> Tensor:
        y, low = _project(x, projection.weight, a, b, projection.scaling)
        ctx.save_for_backward(x, low, a, b)
        ctx.projection = projection
        return y.add_(residual)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b = ctx.saved_tensors
        one = ctx.projection
        of_x, of_a, of_b = _project_backward(gradients[0], x, low, one.weight, a, b, one.scale, one.scaling)
        return gradients[0], of_x, None, of_a, of_b


class Gate(torch.autograd.Function):
    """``silu(gate) * up`` of [T, 2 * inner], the gate first."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        opened = torch.nn.functional.silu(gate)
        ctx.save_for_backward(both, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (g,), (both, opened) = gradients, ctx.saved_tensors
        gate, up = both.chunk(2, dim=-1)
        out = torch.empty_like(both)
        of_gate, of_up = out.chunk(2, dim=-1)
        torch.mul(g, opened, out=of_up)
        of_gate.copy_(torch.ops.aten.silu_backward(g * up, gate))
        return out


class Segments:
    """Which tokens of a row see which: the prefix itself, each tail the prefix and itself.

    ``queries`` [S, L] and ``keys`` [S, K] are places in the row; padding points at place 0 and is masked.
    """

    def __init__(self, row: PackedRow, dtype: torch.dtype) -> None:
        spans = [(0, row.prefix_length)] if row.prefix_length else []
        spans += list(zip(row.starts, row.lengths, strict=True))
        device = row.input_ids.device
        longest, prefix = max(length for _, length in spans), row.prefix_length
        offsets = torch.arange(longest)
        starts, lengths = (torch.tensor(part)[:, None] for part in zip(*spans, strict=True))
        inside = offsets < lengths  # [S, L]
        queries = torch.where(inside, starts + offsets, 0)
        own = prefix if prefix else 0
        before = torch.arange(own).expand(len(spans), own)
        has_prefix = (starts > 0) if prefix else torch.zeros_like(starts, dtype=torch.bool)
        seen = torch.cat([has_prefix.expand(len(spans), own), inside], dim=1)  # [S, K]
        earlier = torch.cat(
            [torch.ones(longest, own, dtype=torch.bool), torch.ones(longest, longest).tril().bool()], dim=1
        )
        allowed = seen[:, None, :] & earlier[None]
        mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
        self.queries, self.keys = queries.to(device), torch.cat([before, queries], dim=1).to(device)
        self.mask = mask[:, None, None].to(device)  # [S, 1, 1, L, K]
        self.inside = inside.to(device)
        # Every token of the row is a query once: where its answer lies in [S * L]. Padding of the row takes any.
        places = torch.zeros(row.input_ids.shape[1], dtype=torch.long)
        places[queries[inside]] = torch.arange(queries.numel()).view_as(queries)[inside]
        self.places = places.to(device)


class Attend(torch.autograd.Function):
    """Rotation of q and k, then attention within segments. ``qkv`` is [T, (heads + 2 * kv_heads) * head_size]."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, segments: Segments, heads: int, kv_heads: int
    ) -> Tensor:
        size = cos.shape[-1]
        parts = qkv.view(len(qkv), -1, size)
        turned = parts[:, : heads + kv_heads]
        turned = torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin)
        s, length = segments.queries.shape
        q = turned[:, :heads][segments.queries]  # [S, L, heads, size]
        q = q.view(s, length, kv_heads, -1, size).permute(0, 2, 3, 1, 4)  # [S, kv_heads, group, L, size]
        k = turned[:, heads:][segments.keys].transpose(1, 2)  # [S, kv_heads, K, size]
        v = parts[:, heads + kv_heads :][segments.keys].transpose(1, 2)
        group = q.shape[2]
        q = q.reshape(s, kv_heads, group * length, size)
        scores = (q @ k.transpose(-1, -2)).view(s, kv_heads, group, length, -1) + segments.mask
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(qkv.dtype)
        flat = weights.view(s, kv_heads, group * length, -1)
        answer = (flat @ v).view(s, kv_heads, group, length, size).permute(0, 3, 1, 2, 4).reshape(s * length, -1)
        ctx.save_for_backward(q, k, v, flat, cos, sin)
        ctx.segments, ctx.heads, ctx.kv_heads, ctx.tokens = segments, heads, kv_heads, len(qkv)
        return answer[segments.places]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, flat, cos, sin = ctx.saved_tensors
        segments, heads, kv_heads, size = ctx.segments, ctx.heads, ctx.kv_heads, cos.shape[-1]
        s, length = segments.queries.shape
        g = gradients[0][segments.queries] * segments.inside[..., None]  # [S, L, heads * size]
        g = g.view(s, length, kv_heads, -1, size).permute(0, 2, 3, 1, 4).reshape(s, kv_heads, -1, size)
        of_v = flat.transpose(-1, -2) @ g
        of_weights = g @ v.transpose(-1, -2)
        of_scores = torch.ops.aten._softmax_backward_data(of_weights.float(), flat.float(), -1, torch.float32)
        of_scores = of_scores.to(flat.dtype)
        of_q = (
            (of_scores @ k).view(s, kv_heads, -1, length, size).permute(0, 3, 1, 2, 4).reshape(s * length, heads, size)
        )
        of_k = of_scores.transpose(-1, -2) @ q
        # A key is seen by many segments if it is of the prefix: its gradients add up, in float32.
        both = torch.cat([of_k, of_v], dim=1).transpose(1, 2).flatten(0, 1).float()  # [S * K, 2 * kv_heads, size]
        summed = torch.zeros(ctx.tokens, 2 * kv_heads, size, device=both.device)
        summed.index_add_(0, segments.keys.flatten(), both)
        out = torch.empty(ctx.tokens, heads + 2 * kv_heads, size, dtype=flat.dtype, device=both.device)
        out[:, :heads] = of_q[segments.places]
        out[:, heads:] = summed
        turned = out[:, : heads + kv_heads]
        back = torch.addcmul(turned * cos, (turned * sin).roll(size // 2, -1), torch.ones_like(cos))
        out[:, : heads + kv_heads] = back
        return out.view(ctx.tokens, -1), None, None, None, None, None


Layer = tuple[Any, Any, list[Projection]]  # the two normalisations, the projections in the order of `GROUPS`


class LlamaDecoder:
    """The decoder of a PEFT-wrapped Llama: embeds a packed row, gives its last hidden states."""

    def __init__(self, wrapped: Any) -> None:
        """Raises ValueError where `fits` is false."""
        if not fits(wrapped):
            raise ValueError("this model is no Llama with plain LoRA on all projections")
        self._model = wrapped.get_base_model().get_decoder()
        config = self._model.config
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.checkpointing = False  # keep one layer's values at a time, compute the rest twice
        self._layers: list[Layer] = []
        for layer in self._model.layers:
            parts = {**dict(layer.self_attn.named_children()), **dict(layer.mlp.named_children())}
            projections = [Projection([parts[name] for name in names]) for names in GROUPS]
            self._layers.append((layer.input_layernorm, layer.post_attention_layernorm, projections))

    def parameters(self) -> list[Tensor]:
        """The adapters' weights, all of them leaves: A and B of each projection."""
        return [weights for _, _, projections in self._layers for one in projections for weights in (one.a, one.b)]

    def write_back(self) -> None:
        """Give the weights to the PEFT model, for saving."""
        for _, _, projections in self._layers:
            for one in projections:
                one.write_back()

    def __call__(self, row: PackedRow) -> Tensor:
        """[T, hidden_size], for the T tokens of the row."""
        x = self._model.embed_tokens(row.input_ids)[0]
        cos, sin = self._angles(x, row.position_ids)
        segments = Segments(row, x.dtype)
        for layer in self._layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(self._layer, layer, x, cos, sin, segments, use_reentrant=False)
            else:
                x = self._layer(layer, x, cos, sin, segments)
        normed: Tensor = self._model.norm(x)
        return normed

    def _layer(self, layer: "Layer", x: Tensor, cos: Tensor, sin: Tensor, segments: Segments) -> Tensor:
        before, between, (qkv, out, gate_up, down) = layer
        mixed = NormProject.apply(x, before.weight, before.variance_epsilon, qkv, qkv.a, qkv.b)
        mixed = Attend.apply(mixed, cos, sin, segments, self._heads, self._kv_heads)
        x = ProjectAdd.apply(x, mixed, out, out.a, out.b)
        both = NormProject.apply(x, between.weight, between.variance_epsilon, gate_up, gate_up.a, gate_up.b)
        return ProjectAdd.apply(x, Gate.apply(both), down, down.a, down.b)

    def _angles(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[T, heads + kv_heads, size]: q is scaled with its rotation; the sine has the sign of the half it adds to."""
        cos, sin = (part[0] for part in self._model.rotary_emb(x[None], positions))  # [T, size]
        half = self._size // 2
        signed = torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)
        scale = torch.ones(self._heads + self._kv_heads, 1, dtype=x.dtype, device=x.device)
        scale[: self._heads] = self._size**-0.5
        return cos[:, None] * scale, signed[:, None] * scale


def fits(wrapped: Any) -> bool:
    """Whether `LlamaDecoder` computes what ``wrapped`` does."""
    from training.fast import is_plain

    model = wrapped.get_base_model()
    config = model.config
    if config.model_type != "llama" or config.hidden_act != "silu" or getattr(config, "attention_dropout", 0):
        return False
    for layer in model.get_decoder().layers:
        parts = {**dict(layer.self_attn.named_children()), **dict(layer.mlp.named_children())}
        for names in GROUPS:
            if not all(is_plain(parts.get(name)) and parts[name].base_layer.bias is None for name in names):
                return False
    return True

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

    S segments of at most L queries and K keys, the prefix first among these. Everything is a choice of rows, one row
    per token and head; padding points at some row and is masked.
    """

    def __init__(self, row: PackedRow, dtype: torch.dtype, heads: int, kv_heads: int) -> None:
        prefix, device = row.prefix_length, row.input_ids.device
        spans = [(0, prefix)] if prefix else []
        spans += list(zip(row.starts, row.lengths, strict=True))
        longest, num_tokens = max(length for _, length in spans), row.input_ids.shape[1]
        every, offsets = heads + 2 * kv_heads, torch.arange(longest)
        starts, lengths = (torch.tensor(part)[:, None] for part in zip(*spans, strict=True))
        inside = offsets < lengths  # [S, L]
        queries = torch.where(inside, starts + offsets, 0)  # [S, L]: places in the row
        keys = torch.cat([torch.arange(prefix).expand(len(spans), prefix), queries], dim=1)  # [S, K]
        before = (starts > 0).expand(len(spans), prefix)  # the prefix is its own segment, and does not precede itself
        earlier = torch.cat([torch.ones(longest, prefix), torch.ones(longest, longest).tril()], dim=1).bool()
        allowed = torch.cat([before, inside], dim=1)[:, None, :] & earlier  # [S, L, K]
        mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
        self.prefix, self.heads, self.kv_heads = prefix, heads, kv_heads
        self.used = prefix + sum(row.lengths)  # tokens; after them comes padding
        group, self.shape = heads // kv_heads, (len(spans), kv_heads, longest, keys.shape[1])
        # [S * kv_heads, group * L, K]: the heads that share keys are rows of one product.
        self.mask = mask[:, None, None].expand(-1, kv_heads, group, -1, -1).flatten(0, 1).flatten(1, 2).to(device)
        q = queries[:, None, None, :] * every + torch.arange(heads).view(kv_heads, group, 1)  # [S, kv, group, L]
        k = keys[:, None, :] * every + heads + torch.arange(kv_heads)[:, None]  # [S, kv, K]
        self.counts = q.numel(), k.numel()
        self.rows = torch.cat([q.flatten(), k.flatten(), k.flatten() + kv_heads]).to(device)  # of queries, keys, values
        answer = queries[:, None, None, :] * heads + torch.arange(heads).view(kv_heads, group, 1)
        self.answer_rows = answer.flatten().to(device)
        padding = ~inside[:, None, None, :].expand(answer.shape)
        self.padding = padding.flatten()[:, None].to(device)
        # The other way round: where each token's query, key and value lie. Padding of the row points anywhere.
        segment, offset = (torch.zeros(num_tokens, dtype=torch.long) for _ in range(2))
        segment[queries[inside]] = torch.arange(len(spans))[:, None].expand(inside.shape)[inside]
        offset[queries[inside]] = offsets.expand(inside.shape)[inside]
        back_q = (segment[:, None] * heads + torch.arange(heads)) * longest + offset[:, None]  # [T, heads]
        back_k = (segment[:, None] * kv_heads + torch.arange(kv_heads)) * keys.shape[1] + prefix + offset[:, None]
        back = [back_q, back_k + q.numel(), back_k + q.numel() + k.numel()]
        self.back_q, self.back = back_q.flatten().to(device), torch.cat(back, dim=1).flatten().to(device)


class Attend(torch.autograd.Function):
    """Rotation of q and k, then attention within segments. ``qkv`` is [T, (heads + 2 * kv_heads) * head_size]."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, segments: Segments) -> Tensor:
        size, count = cos.shape[-1], segments.heads + segments.kv_heads
        parts = qkv.view(len(qkv), -1, size).clone()
        _turn(parts[:, :count], cos, sin)
        rows = parts.view(-1, size).index_select(0, segments.rows)
        q, k, v = _split(rows, segments)
        scores = torch.baddbmm(segments.mask, q, k.transpose(1, 2))
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)  # bfloat16 takes five times as long
        answer = torch.bmm(weights, v).view(-1, size).index_select(0, segments.back_q)
        ctx.save_for_backward(rows, weights, cos, sin)
        ctx.segments = segments
        return answer.view(len(qkv), -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weights, cos, sin = ctx.saved_tensors
        segments: Segments = ctx.segments
        (q, k, v), size = _split(rows, segments), cos.shape[-1]
        g = gradients[0].reshape(-1, size).index_select(0, segments.answer_rows)
        g = g.masked_fill_(segments.padding, 0).view(q.shape)
        of_rows = torch.empty_like(rows)
        of_q, of_k, of_v = _split(of_rows, segments)
        torch.bmm(weights.transpose(1, 2), g, out=of_v)
        of_weights = torch.bmm(g, v.transpose(1, 2))
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        torch.bmm(of_scores, k, out=of_q)
        torch.bmm(of_scores.transpose(1, 2), q, out=of_k)
        out = of_rows.index_select(0, segments.back).view(len(gradients[0]), -1, size)
        if prefix := segments.prefix:  # its keys and values are seen by every segment
            s, kv_heads, _, num_keys = segments.shape
            seen = of_rows[segments.counts[0] :].view(2, s, kv_heads, num_keys, size)[:, :, :, :prefix]
            summed = seen.sum(1, dtype=torch.float32).permute(2, 0, 1, 3).flatten(1, 2)
            out[:prefix, segments.heads :] += summed.to(out.dtype)
        out[segments.used :] = 0
        _turn(out[:, : segments.heads + segments.kv_heads], cos, sin, back=True)
        return out.view(len(out), -1), None, None, None


def _split(rows: Tensor, segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [S * kv_heads, group * L, size], keys and values [S * kv_heads, K, size]: views of rows."""
    s, kv_heads, _, num_keys = segments.shape
    q, k, v = rows.split([segments.counts[0], segments.counts[1], segments.counts[1]])
    size = rows.shape[1]
    return q.view(s * kv_heads, -1, size), k.view(-1, num_keys, size), v.view(-1, num_keys, size)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> None:
    """Rotate in place, x [T, heads, size]; ``back`` gives gradients their way back."""
    half = x.shape[-1] // 2
    swapped = (x * sin).roll(half, -1) if back else x.roll(half, -1).mul_(sin)
    x.mul_(cos).add_(swapped)


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
        segments = Segments(row, x.dtype, self._heads, self._kv_heads)
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
        mixed = Attend.apply(mixed, cos, sin, segments)
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

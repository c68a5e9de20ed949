"""Forward and backward of a Llama decoder with LoRA on all projections, with as few operations as there can be.

For rows of some hundred tokens a step is bound by the number of operations as much as by their size. The modules of
transformers and PEFT run some 5,000 per step, and attend from every token of a packed row to every other. Here

- the whole decoder is one step of autograd, with its gradients written out,
- projections that read the same input (q, k, v; gate, up) are one product, and so are their LoRA parts,
- the gradients of LoRA's weights are one product for `SPAN` layers,
- after the last attention only those tokens are computed that something is predicted from.

The gradients are tested against those of transformers and PEFT. Whatever is not such a model goes through these.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fourshot.training.lora.attention import Segments, attend, attend_backward
from fourshot.training.lora.packing import PackedRow
from fourshot.training.lora.projection import Projection, pays_to_pack

GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
SPAN = 6  # more layers at a time keep more gradients of activations


class Row(NamedTuple):
    """What all layers need to know of a packed row of T tokens."""

    segments: Segments
    cos: Tensor  # [T, heads + kv_heads, size]
    sin: Tensor
    positions: Tensor  # int64 [N]: the tokens whose last hidden states are wanted


class Normed(NamedTuple):
    """What a normalisation keeps."""

    unit: Tensor  # [T, hidden]
    inverse: Tensor  # float32 [T, 1]


class Kept(NamedTuple):
    """What one layer keeps for its gradients, beside what its projections read."""

    before: Normed
    rows: Tensor
    weights: Tensor
    between: Normed
    both: Tensor  # gate and up [T, 2 * inner]
    opened: Tensor  # silu of the gate [T, inner]


class Span(NamedTuple):
    """What consecutive layers keep. After the last attention of the decoder there are N tokens instead of T."""

    inputs: list[Tensor]  # of each of `GROUPS`: [layers, T, in]
    lows: list[Tensor]  # the same times A^T: [layers, T, rank]
    layers: list[Kept]

    def tensors(self) -> list[Tensor]:
        flat = [*self.inputs, *self.lows]
        for layer in self.layers:
            flat += [*layer.before, layer.rows, layer.weights, *layer.between, layer.both, layer.opened]
        return flat

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Span":
        """The inverse of `tensors`."""
        groups, layers = len(GROUPS), []
        for at in range(2 * groups, len(tensors), 8):
            unit, inverse, rows, weights, unit_2, inverse_2, both, opened = tensors[at : at + 8]
            layers.append(Kept(Normed(unit, inverse), rows, weights, Normed(unit_2, inverse_2), both, opened))
        return cls(list(tensors[:groups]), list(tensors[groups : 2 * groups]), layers)


class Decode(torch.autograd.Function):
    """All layers: embedded tokens [T, hidden] -> [N, hidden]. ``weights`` are those of the decoder, for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, decoder: "LlamaDecoder", row: Row, keeps: bool, *weights: Tensor) -> Tensor:
        spans = decoder.spans()
        ctx.decoder, ctx.row, ctx.spans, ctx.checkpointing = decoder, row, spans, decoder.checkpointing
        saved: list[Tensor] = []
        ctx.ends = []  # of each span, in what is saved
        for span in spans:
            if keeps and ctx.checkpointing:
                saved.append(x)
            x, kept = decoder.forward(span, x, row)
            if keeps and not ctx.checkpointing:
                saved += kept.tensors()
            ctx.ends.append(len(saved))
        ctx.save_for_backward(*saved)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        decoder: LlamaDecoder = ctx.decoder
        of_weights = [projection.new_gradients() for projection in decoder.projections]
        saved, g = ctx.saved_tensors, gradients[0]
        for span, start, end in reversed(list(zip(ctx.spans, [0, *ctx.ends], ctx.ends, strict=False))):
            if ctx.checkpointing:
                _, kept = decoder.forward(span, saved[start], ctx.row)
            else:
                kept = Span.of(saved[start:end])
            g = decoder.backward(span, g, kept, ctx.row, of_weights)
        return None, None, None, None, *(gradient for pair in of_weights for gradient in pair)


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
        layers = [_parts(layer) for layer in self._model.layers]
        packed = pays_to_pack([parts[name].base_layer.weight for parts in layers for names in GROUPS for name in names])
        self.projections = [
            Projection([[parts[name] for name in names] for parts in layers], packed=packed) for names in GROUPS
        ]
        self._norms = [(layer.input_layernorm, layer.post_attention_layernorm) for layer in self._model.layers]

    def parameters(self) -> list[Tensor]:
        """The adapters' weights, all of them leaves: A and B of each of `GROUPS`, all layers in one."""
        return [weights for projection in self.projections for weights in (projection.a, projection.b)]

    def write_back(self) -> None:
        """Give the weights to the PEFT model, for saving."""
        for projection in self.projections:
            projection.write_back()

    def __call__(self, row: PackedRow, positions: Tensor | None = None) -> Tensor:
        """[N, hidden_size], for the tokens of the row at ``positions`` [N], or for all of them."""
        x = self._model.embed_tokens(row.input_ids)[0]
        if positions is None:
            positions = torch.arange(len(x), device=x.device)
        cos, sin = self._angles(x, row.position_ids)
        given = Row(Segments(row, x.dtype, self._heads, self._kv_heads), cos, sin, positions)
        normed: Tensor = self._model.norm(Decode.apply(x, self, given, torch.is_grad_enabled(), *self.parameters()))
        return normed

    def spans(self) -> list[range]:
        """Layers that are computed together; the last is alone, for it has fewer tokens."""
        size, last = 1 if self.checkpointing else SPAN, len(self._norms) - 1
        return [*(range(start, min(start + size, last)) for start in range(0, last, size)), range(last, last + 1)]

    def _num_rows(self, span: range, row: Row) -> list[int]:
        """Tokens that each of `GROUPS` computes."""
        every = len(row.cos)
        after = len(row.positions) if span.stop == len(self._norms) else every
        return [every, after, after, after]

    def forward(self, span: range, x: Tensor, row: Row) -> tuple[Tensor, Span]:
        """x [T, hidden] -> [T, hidden], after the last layer [N, hidden]."""
        num_rows, segments = self._num_rows(span, row), row.segments
        kept = Span([], [], [])
        for projection, tokens in zip(self.projections, num_rows, strict=True):
            width, rank, _ = projection.sizes
            kept.inputs.append(x.new_empty(len(span), tokens, width))
            kept.lows.append(x.new_empty(len(span), tokens, rank))
        qkv, out, gate_up, down = self.projections
        for layer, inputs, lows in zip(span, zip(*kept.inputs, strict=True), zip(*kept.lows, strict=True), strict=True):
            norm_before, norm_between = self._norms[layer]
            before = _normalise(x, norm_before, inputs[0])
            mixed = qkv.forward(layer, inputs[0], lows[0])
            answers, rows, weights = attend(mixed, row.cos, row.sin, segments)
            chosen = segments.back_q
            if layer == len(self._norms) - 1:
                x, chosen = x.index_select(0, row.positions), chosen.index_select(0, row.positions)
            torch.index_select(answers, 0, chosen.flatten(), out=inputs[1].view(-1, self._size))
            x = out.forward(layer, inputs[1], lows[1]).add_(x)
            between = _normalise(x, norm_between, inputs[2])
            both = gate_up.forward(layer, inputs[2], lows[2])
            gate, up = both.chunk(2, dim=-1)
            opened = torch.nn.functional.silu(gate)
            torch.mul(opened, up, out=inputs[3])
            x = down.forward(layer, inputs[3], lows[3]).add_(x)
            kept.layers.append(Kept(before, rows, weights, between, both, opened))
        return x, kept

    def backward(self, span: range, g: Tensor, kept: Span, row: Row, of_weights: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The gradient for the span's input [T, hidden], from that of its output; writes those of the weights."""
        num_rows = self._num_rows(span, row)
        outputs, of_lows = [], []
        for projection, tokens in zip(self.projections, num_rows, strict=True):
            _, rank, width = projection.sizes
            outputs.append(g.new_empty(len(span), tokens, width))
            of_lows.append(g.new_empty(len(span), tokens, rank))
        qkv, out, gate_up, down = self.projections
        of_answers = g.new_zeros(num_rows[0] + 1, out.sizes[0])  # of all tokens; the last row stays zero
        for layer in reversed(span):
            at = layer - span.start
            mine, low = kept.layers[at], [whole[at] for whole in of_lows]
            of_qkv, of_out, of_both, of_down = (whole[at] for whole in outputs)
            norm_before, norm_between = self._norms[layer]
            of_down.copy_(g)
            of_gated = down.backward(layer, of_down, low[3])
            gate, up = mine.both.chunk(2, dim=-1)
            of_gate, of_up = of_both.chunk(2, dim=-1)
            torch.mul(of_gated, mine.opened, out=of_up)
            torch.ops.aten.silu_backward.grad_input(of_gated.mul_(up), gate, grad_input=of_gate)
            of_normed = gate_up.backward(layer, of_both, low[2])
            torch.add(of_down, _normalise_backward(of_normed, norm_between, mine.between), out=of_out)
            of_answer, g = out.backward(layer, of_out, low[1]), of_out
            if layer == len(self._norms) - 1:
                of_answers[:-1].index_add_(0, row.positions, of_answer)
                g = g.new_zeros(num_rows[0], g.shape[1]).index_add_(0, row.positions, g)
            else:
                of_answers[:-1] = of_answer
            attend_backward(of_answers, mine.rows, mine.weights, row.cos, row.sin, row.segments, of_qkv)
            if layer == 0:  # embeddings are frozen
                qkv.low_gradient(layer, of_qkv, low[0])
            else:
                of_normed = qkv.backward(layer, of_qkv, low[0])
                g = _normalise_backward(of_normed, norm_before, mine.before).add_(g)
        for number, projection in enumerate(self.projections):
            projection.weight_gradients(
                span, of_weights[number], kept.inputs[number], kept.lows[number], outputs[number], of_lows[number]
            )
        return g

    def _angles(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[T, heads + kv_heads, size]: q is scaled with its rotation; the sine has the sign of the half it adds to."""
        cos, sin = (part[0] for part in self._model.rotary_emb(x[None], positions))  # [T, size]
        half = self._size // 2
        signed = torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)
        scale = torch.ones(self._heads + self._kv_heads, 1, dtype=x.dtype, device=x.device)
        scale[: self._heads] = self._size**-0.5
        return cos[:, None] * scale, signed[:, None] * scale


def _normalise(x: Tensor, norm: Any, out: Tensor) -> Normed:
    """Write x over its root mean square, times the gain, to ``out``."""
    wide = x.float()
    inverse = wide.square().mean(-1, keepdim=True).add_(norm.variance_epsilon).rsqrt_()
    unit = (wide * inverse).to(x.dtype)
    torch.mul(unit, norm.weight, out=out)
    return Normed(unit, inverse)


def _normalise_backward(g: Tensor, norm: Any, kept: Normed) -> Tensor:
    """The gradient for x, from that of the normalised."""
    wide, of_unit = kept.unit.float(), g.mul_(norm.weight).float()
    inner = (wide * of_unit).mean(-1, keepdim=True)
    return of_unit.addcmul_(wide, inner, value=-1).mul_(kept.inverse).to(g.dtype)


def _parts(layer: Any) -> dict[str, Any]:
    return {**dict(layer.self_attn.named_children()), **dict(layer.mlp.named_children())}


def fits(wrapped: Any) -> bool:
    """Whether `LlamaDecoder` computes what ``wrapped`` does."""
    from fourshot.training.lora.fast import is_plain

    model = wrapped.get_base_model()
    config = model.config
    if config.model_type != "llama" or config.hidden_act != "silu" or getattr(config, "attention_dropout", 0):
        return False
    ranks: set[tuple[float, ...]] = set()
    for layer in model.get_decoder().layers:
        parts = _parts(layer)
        for names in GROUPS:
            if not all(is_plain(parts.get(name)) and parts[name].base_layer.bias is None for name in names):
                return False
            ranks.update((*parts[name].r.values(), *parts[name].scaling.values()) for name in names)
    return len(ranks) == 1  # one tensor holds the adapters of all layers

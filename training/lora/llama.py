"""Forward and backward of a Llama-like decoder with LoRA, with as few operations as possible.

For rows of a few hundred tokens, a step is limited by the number of operations as much as by their size. The modules of
transformers and PEFT run about 5,000 per step, and every token of a packed row attends to every other. Here

- the whole decoder is one autograd step with hand-written gradients,
- projections with the same input (q, k, v; gate, up) are one product, and so are their LoRA parts,
- the gradients of the LoRA weights are one product for `SPAN` layers,
- after the last attention layer, only tokens used for prediction are computed.

Families differ from Llama in biases, head size, windows, and the place of normalisation. For each family, the gradients
are tested against those of transformers and PEFT. All other models are computed by transformers and PEFT.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fourshot.training.lora.attention import Segments, attend, attend_backward
from fourshot.training.lora.fast import is_plain
from fourshot.training.lora.masks import SLIDING
from fourshot.training.lora.norms import LayerNorms, SavedNorm, enter, leave, through
from fourshot.training.lora.packing import PackedRow
from fourshot.training.lora.projection import Projection, frozen_linear, pays_to_pack

GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
FAMILIES = ("llama", "mistral", "ministral", "cwm", "qwen2", "qwen3", "olmo2")
NO_ADAPTER, OTHER = (0.0,), (-1.0,)
SPAN = 6  # layers computed together; more would keep more gradients of activations


class DecoderRow(NamedTuple):
    """The data of a packed row of T tokens that all layers need."""

    segments: Segments
    cos: Tensor  # [T, heads + kv_heads, size]
    sin: Tensor
    positions: Tensor  # int64 [N]: the tokens whose last hidden states are needed
    seed: int | None  # of the dropout masks; None: no dropout


class SavedLayer(NamedTuple):
    """Tensors that one layer keeps for its gradients, besides its projections' inputs; None if there is no norm."""

    before_attention: SavedNorm | None
    queries_and_keys: list[SavedNorm]
    rows: Tensor
    weights: Tensor
    after_attention: SavedNorm | None
    before_mlp: SavedNorm | None
    both: Tensor  # gate and up [T, 2 * inner]
    opened: Tensor  # silu of the gate [T, inner]
    after_mlp: SavedNorm | None
    masks: list[Tensor | None]  # dropout masks, one for each of `GROUPS`


class LayerSpan(NamedTuple):
    """Tensors kept by consecutive layers. After the decoder's last attention there are N tokens instead of T."""

    inputs: list[Tensor]  # for each of `GROUPS`: [layers, T, in]
    lows: list[Tensor]  # the inputs times A^T: [layers, T, rank]
    layers: list[SavedLayer]


class Decode(torch.autograd.Function):
    """All layers with adapters: [T, hidden] -> [N, hidden]. ``weights`` are `LlamaDecoder.parameters`, for autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, decoder: "LlamaDecoder", row: DecoderRow, keeps: bool, *weights: Tensor) -> Tensor:
        spans = decoder.spans()
        ctx.decoder, ctx.row, ctx.spans, ctx.checkpointing = decoder, row, spans, decoder.checkpointing
        saved: list[Any] = []
        for span in spans:
            span_input = x
            x, kept = decoder.forward(span, x, row)
            if keeps:
                saved.append(span_input if ctx.checkpointing else kept)
        tensors, ctx.structure = pytree.tree_flatten(saved)
        ctx.save_for_backward(*tensors)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        decoder: LlamaDecoder = ctx.decoder
        of_weights = [projection.new_gradients() for projection in decoder.projections]
        saved, g = pytree.tree_unflatten(ctx.saved_tensors, ctx.structure), gradients[0]
        for span, kept in reversed(list(zip(ctx.spans, saved, strict=True))):
            if ctx.checkpointing:
                _, kept = decoder.forward(span, kept, ctx.row)
            g = decoder.backward(span, g, kept, ctx.row, of_weights)
        return None, None, None, None, *(gradient for pair in of_weights for gradient in pair)


class LlamaDecoder:
    """The decoder of a PEFT-wrapped model: embeds a packed row and returns its last hidden states."""

    row_multiple = 8  # tokens; small, because padding costs more than the kernels of a few more shapes

    def __init__(self, wrapped: Any) -> None:
        """Raises ValueError if `decoder_supports` is false."""
        if not decoder_supports(wrapped):
            raise ValueError("this model is not a Llama-like one with plain LoRA")
        self._model = wrapped.get_base_model().get_decoder()
        config = self._model.config
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.checkpointing = False  # if set, one layer's values are kept at a time, and the rest is computed twice
        layers = [_parts(layer) for layer in self._model.layers]
        packed = pays_to_pack(
            [frozen_linear(parts[name]).weight for parts in layers for names in GROUPS for name in names]
        )
        self.first = next(number for number, parts in enumerate(layers) if _has_adapter(parts))
        self.projections = [
            Projection([[parts[name] for name in names] for parts in layers], self.first, packed=packed)
            for names in GROUPS
        ]
        self._norms = [LayerNorms(layer, self._heads, self._kv_heads, self._size) for layer in self._model.layers]
        kinds = getattr(config, "layer_types", None) or [SLIDING] * len(layers)
        window = getattr(config, "sliding_window", None)
        self._windows = [window if kind == SLIDING else None for kind in kinds]

    def parameters(self) -> list[Tensor]:
        """Return the adapters' weights, which are leaf tensors: A and B of each of `GROUPS`, with all layers in one."""
        return [weights for projection in self.projections for weights in (projection.a, projection.b)]

    def write_back(self) -> None:
        """Copy the weights to the PEFT model, for saving."""
        for projection in self.projections:
            projection.write_back()

    def __call__(self, row: PackedRow, positions: Tensor | None = None, states: Tensor | None = None) -> Tensor:
        """Return the last hidden states [N, hidden_size] at ``positions`` [N] of the row, or at all its tokens.

        ``states``: the result of `below` for this row, if it is known.
        """
        x = self.below(row) if states is None else states
        if positions is None:
            positions = torch.arange(len(x), device=x.device)
        drops = any(projection.dropout for projection in self.projections)
        shared = self._shared(row, x, positions, int(torch.randint(1 << 60, ())) if drops else None)
        normed: Tensor = self._model.norm(Decode.apply(x, self, shared, torch.is_grad_enabled(), *self.parameters()))
        return normed

    @torch.no_grad()
    def below(self, row: PackedRow) -> Tensor:
        """Return the input [T, hidden_size] of the first layer with an adapter, which training does not change."""
        x: Tensor = self._model.embed_tokens(row.input_ids)[0]
        if self.first:
            shared = self._shared(row, x, torch.arange(len(x), device=x.device), None)
            for layer in range(self.first):
                x, _ = self.forward(range(layer, layer + 1), x, shared)
        return x

    def spans(self) -> list[range]:
        """Return the layers with adapters, grouped as they are computed; the last is alone: it has fewer tokens."""
        size, last = 1 if self.checkpointing else SPAN, len(self._norms) - 1
        starts = range(self.first, last, size)
        return [*(range(start, min(start + size, last)) for start in starts), range(last, last + 1)]

    def _shared(self, row: PackedRow, x: Tensor, positions: Tensor, seed: int | None) -> DecoderRow:
        segments = Segments(row, x.dtype, self._heads, self._kv_heads, self._windows)
        return DecoderRow(segments, *self._angles(x, row.position_ids), positions, seed)

    def _num_rows(self, span: range, row: DecoderRow) -> list[int]:
        """Return the number of tokens that each of `GROUPS` computes."""
        num_tokens = len(row.cos)
        num_last = len(row.positions) if span.stop == len(self._norms) else num_tokens
        return [num_tokens, num_last, num_last, num_last]

    def _masks(self, layer: int, row: DecoderRow, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """Return a dropout mask for each of `GROUPS`, shaped like its input, and the same each time for a layer."""
        if row.seed is None:
            return [None] * len(GROUPS)
        generator = torch.Generator(inputs[0].device).manual_seed(row.seed + layer)
        return [projection.mask(x, generator) for projection, x in zip(self.projections, inputs, strict=True)]

    def forward(self, span: range, x: Tensor, row: DecoderRow) -> tuple[Tensor, LayerSpan]:
        """Map x [T, hidden] to [T, hidden], or [N, hidden] after the last layer; also return the kept tensors."""
        num_rows, segments = self._num_rows(span, row), row.segments
        kept = LayerSpan([], [], [])
        for projection, tokens in zip(self.projections, num_rows, strict=True):
            width, rank, _ = projection.sizes
            kept.inputs.append(x.new_empty(len(span), tokens, width))
            kept.lows.append(x.new_empty(len(span), tokens, rank))
        qkv, out, gate_up, down = self.projections
        for layer, inputs, lows in zip(span, zip(*kept.inputs, strict=True), zip(*kept.lows, strict=True), strict=True):
            norms, masks = self._norms[layer], self._masks(layer, row, inputs)
            before_attention = enter(x, norms.before_attention, inputs[0])
            mixed = qkv.forward(layer, inputs[0], lows[0], masks[0])
            queries_and_keys = norms.queries_and_keys(mixed)
            answers, rows, weights = attend(mixed, row.cos, row.sin, segments, self._windows[layer])
            chosen = segments.back_q
            if layer == len(self._norms) - 1:
                x, chosen = x.index_select(0, row.positions), chosen.index_select(0, row.positions)
            torch.index_select(answers, 0, chosen.flatten(), out=inputs[1].view(-1, self._size))
            x, after_attention = leave(x, out.forward(layer, inputs[1], lows[1], masks[1]), norms.after_attention)
            before_mlp = enter(x, norms.before_mlp, inputs[2])
            both = gate_up.forward(layer, inputs[2], lows[2], masks[2])
            gate, up = both.chunk(2, dim=-1)
            opened = torch.nn.functional.silu(gate)
            torch.mul(opened, up, out=inputs[3])
            x, after_mlp = leave(x, down.forward(layer, inputs[3], lows[3], masks[3]), norms.after_mlp)
            norms_kept = before_attention, queries_and_keys, rows, weights, after_attention, before_mlp
            kept.layers.append(SavedLayer(*norms_kept, both, opened, after_mlp, masks))
        return x, kept

    def backward(
        self, span: range, g: Tensor, kept: LayerSpan, row: DecoderRow, of_weights: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Return the gradient of the span's input [T, hidden], given that of its output; write those of the weights."""
        num_rows = self._num_rows(span, row)
        outputs, of_lows = [], []
        for projection, tokens in zip(self.projections, num_rows, strict=True):
            _, rank, width = projection.sizes
            outputs.append(g.new_empty(len(span), tokens, width))
            of_lows.append(g.new_empty(len(span), tokens, rank))
        qkv, out, gate_up, down = self.projections
        of_answers = g.new_zeros(num_rows[0] + 1, out.sizes[0])  # for all tokens; the last row stays zero
        for layer in reversed(span):
            at = layer - span.start
            values, low = kept.layers[at], [gradients[at] for gradients in of_lows]
            of_qkv, of_out, of_both, of_down = (gradients[at] for gradients in outputs)
            norms = self._norms[layer]
            of_down.copy_(g)
            if norms.after_mlp:
                of_down.copy_(through(of_down, norms.after_mlp, values.after_mlp))
            of_gated = down.backward(layer, of_down, low[3], values.masks[3])
            gate, up = values.both.chunk(2, dim=-1)
            of_gate, of_up = of_both.chunk(2, dim=-1)
            torch.mul(of_gated, values.opened, out=of_up)
            torch.ops.aten.silu_backward.grad_input(of_gated.mul_(up), gate, grad_input=of_gate)
            of_normed = gate_up.backward(layer, of_both, low[2], values.masks[2])
            g = torch.add(g, through(of_normed, norms.before_mlp, values.before_mlp), out=of_out)
            if norms.after_attention:
                g = g.clone()
                of_out.copy_(through(of_out, norms.after_attention, values.after_attention))
            of_answer = out.backward(layer, of_out, low[1], values.masks[1])
            if layer == len(self._norms) - 1:
                of_answers[:-1].index_add_(0, row.positions, of_answer)
                g = g.new_zeros(num_rows[0], g.shape[1]).index_add_(0, row.positions, g)
            else:
                of_answers[:-1] = of_answer
            attend_backward(of_answers, values.rows, values.weights, row.cos, row.sin, row.segments, of_qkv)
            norms.queries_and_keys_backward(of_qkv, values.queries_and_keys)
            if layer == self.first:  # the layers below are frozen, so no gradient of the input is needed
                qkv.low_gradient(layer, of_qkv, low[0])
            else:
                of_normed = qkv.backward(layer, of_qkv, low[0], values.masks[0])
                g = through(of_normed, norms.before_attention, values.before_attention).add_(g)
        for number, projection in enumerate(self.projections):
            projection.weight_gradients(
                span, of_weights[number], kept.inputs[number], kept.lows[number], outputs[number], of_lows[number]
            )
        return g

    def _angles(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [T, heads + kv_heads, size], scaled for q; a sine has its target half's sign."""
        cos, sin = (part[0] for part in self._model.rotary_emb(x[None], positions))  # [T, size]
        half = self._size // 2
        signed = torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)
        scale = torch.ones(self._heads + self._kv_heads, 1, dtype=x.dtype, device=x.device)
        scale[: self._heads] = self._size**-0.5
        return cos[:, None] * scale, signed[:, None] * scale


def _parts(layer: Any) -> dict[str, Any]:
    return {**dict(layer.self_attn.named_children()), **dict(layer.mlp.named_children())}


def decoder_supports(wrapped: Any) -> bool:
    """Whether `LlamaDecoder` computes the same as ``wrapped``, a PEFT model."""
    model = wrapped.get_base_model()
    config = model.config
    if config.model_type not in FAMILIES or config.hidden_act != "silu" or getattr(config, "attention_dropout", 0):
        return False
    layers = [_parts(layer) for layer in model.get_decoder().layers]
    kinds = [tuple(_kind(parts.get(name)) for names in GROUPS for name in names) for parts in layers]
    first = next((number for number, kind in enumerate(kinds) if set(kind) != {NO_ADAPTER}), len(kinds))
    if len(set(kinds[first:])) != 1:
        return False
    adapted = set(kinds[first]) - {NO_ADAPTER}
    return OTHER not in adapted and len(adapted) == 1  # one tensor holds the adapters of all layers


def _has_adapter(parts: dict[str, Any]) -> bool:
    return any(_kind(parts[name]) != NO_ADAPTER for names in GROUPS for name in names)


def _kind(module: Any) -> tuple[float, ...]:
    """Return (rank, scaling, dropout) of an adapter, `NO_ADAPTER`, or `OTHER` for one that is not supported here."""
    if type(module) is torch.nn.Linear:
        return NO_ADAPTER
    if not is_plain(module, dropout=True):
        return OTHER
    (name,) = module.active_adapters
    return module.r[name], module.scaling[name], getattr(module.lora_dropout[name], "p", 0.0)

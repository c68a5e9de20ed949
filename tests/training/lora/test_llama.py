"""The written-out decoder gives the hidden states and gradients of transformers and PEFT."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fourshot.training.lora import attention
from fourshot.training.lora.attention import Segments
from fourshot.training.lora.llama import GROUPS, LlamaDecoder, decoder_supports
from fourshot.training.lora.masks import attention_mask
from fourshot.training.lora.packing import PackedRow, pack
from fourshot.training.lora.projection import Projection, pays_to_pack
from tests.training.lora.test_fast import ALL, tiny

TEXTS = {
    "prefix and texts": ([5, 9, 11, 3], [[7, 8], [1, 2, 3, 4, 5, 6], [9]]),
    "a prefix longer than the texts": (list(range(20)), [[7, 8, 1], [2]]),
    "no prefix": ([], [[7, 8, 9, 1], [1, 2]]),
    "one text": ([5, 6], [[7, 8, 9]]),
}


def packed(name: str) -> PackedRow:
    prefix, tails = TEXTS[name]
    return pack(prefix, tails, "cpu")


def slopes(row: PackedRow) -> torch.Tensor:
    """What the loss takes of each hidden state."""
    return torch.randn(used_tokens(row), 32, generator=torch.Generator().manual_seed(2))


def of_peft(wrapped: Any, row: PackedRow) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    wrapped.zero_grad()
    wrapped.get_base_model().set_attn_implementation("eager")
    hidden = wrapped.get_base_model().get_decoder()(
        input_ids=row.input_ids,
        position_ids=row.position_ids,
        attention_mask=attention_mask(row, wrapped.get_base_model().config, torch.float32),
        use_cache=False,
    )
    used = hidden.last_hidden_state[0][: used_tokens(row)]
    (used * slopes(row)).sum().backward()
    return used.detach(), {
        name: parameter.grad.clone() for name, parameter in wrapped.named_parameters() if parameter.requires_grad
    }


def of_decoder(decoder: LlamaDecoder, wrapped: Any, row: PackedRow) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    used = decoder(row)[: used_tokens(row)]
    (used * slopes(row)).sum().backward()
    parameters, copies = decoder.parameters(), [parameter.detach().clone() for parameter in decoder.parameters()]
    assert len(parameters) == len(GROUPS) * 2
    for weight in parameters:  # what write_back gives to PEFT's layers is then the gradient
        assert weight.grad is not None
        weight.data.copy_(weight.grad)
    decoder.write_back()
    gradients = {
        name: parameter.detach().clone() for name, parameter in wrapped.named_parameters() if parameter.requires_grad
    }
    for weight, before in zip(parameters, copies, strict=True):
        weight.data.copy_(before)
    decoder.write_back()
    return used.detach(), gradients


def compare(
    hidden: torch.Tensor,
    gradients: dict[str, torch.Tensor],
    expected: torch.Tensor,
    of_peft: dict[str, torch.Tensor],
    count: int,
) -> None:
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == of_peft.keys() and len(gradients) == count
    for name, gradient in of_peft.items():
        assert gradient.norm() > 0
        assert (gradients[name] - gradient).norm() < 1e-4 * gradient.norm(), name


def used_tokens(row: PackedRow) -> int:
    return row.prefix_length + sum(row.lengths)


# What Llama's kin has that Llama has not, each with the configuration that shows it.
KINDS: tuple[str, ...] = ("sliding_attention", "full_attention")
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("Llama", {}),
    "biases everywhere": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "heads of another size, tied weights": ("Llama", {"head_dim": 16, "tie_word_embeddings": True}),
    "a base's own scale of angles": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
    "Mistral, a window": ("Mistral", {"sliding_window": 4}),
    "Ministral, a window in some layers": (
        "Ministral",
        {"head_dim": 8, "sliding_window": 4, "layer_types": list(KINDS)},
    ),
    "Cwm": ("Cwm", {"sliding_window": 4, "layer_types": list(KINDS[::-1]), "bos_token_id": 1, "eos_token_id": 2}),
    "Qwen 2, biases": ("Qwen2", {}),
    "Qwen 2, a window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "Qwen 3, norms of heads": ("Qwen3", {"head_dim": 16}),
    "OLMo 2, norms of all heads and after": ("Olmo2", {}),
}
CASES = [*(("Llama", name) for name in TEXTS), *((name, "prefix and texts") for name in FAMILIES if name != "Llama")]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_hidden_states_and_every_gradient_equal_those_of_transformers_and_peft(family: str, name: str) -> None:
    kind, more = FAMILIES[family]
    wrapped, row = tiny(family=kind, more=more), packed(name)
    hidden, gradients = of_decoder(LlamaDecoder(wrapped), wrapped, row)
    compare(hidden, gradients, *of_peft(wrapped, row), count=28)


@pytest.mark.parametrize("family", FAMILIES)
def test_so_they_are_where_the_layers_below_have_no_adapter(family: str) -> None:
    kind, more = FAMILIES[family]
    wrapped, row = tiny(family=kind, more=more, layers_to_transform=[1]), packed("prefix and texts")
    decoder = LlamaDecoder(wrapped)
    assert decoder.first == 1
    hidden, gradients = of_decoder(decoder, wrapped, row)
    compare(hidden, gradients, *of_peft(wrapped, row), count=14)


@pytest.mark.parametrize("family", ["Llama", "Mistral, a window", "Cwm"])
def test_a_prefix_far_longer_than_the_texts_is_taken_apart_and_gives_the_same(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, more = FAMILIES[family]
    wrapped, row = tiny(family=kind, more=more), packed("a prefix longer than the texts")
    undivided = Segments(row, torch.float32, 4, 2)
    monkeypatch.setattr(attention, "LONG_PREFIX", 20)
    monkeypatch.setattr(attention, "LEAST_PIECE", 3)
    parts = Segments(row, torch.float32, 4, 2)
    assert (undivided.shape[0], undivided.shape[2]) == (3, 20) and (parts.shape[0], parts.shape[2]) == (9, 3)
    hidden, gradients = of_decoder(LlamaDecoder(wrapped), wrapped, row)
    compare(hidden, gradients, *of_peft(wrapped, row), count=28)


class MadeOn(TorchDispatchMode):
    """On which devices tensors are made meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.devices = set[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.devices |= {part.device.type for part in tree_leaves(made) if isinstance(part, torch.Tensor)}
        return made


@pytest.mark.parametrize("name", TEXTS)
def test_masks_and_indices_of_a_row_are_made_where_the_row_is(name: str) -> None:
    """A tensor without numbers, too: what a GPU would have to be waited for cannot be asked of it."""
    prefix, tails = TEXTS[name]
    row = pack(prefix, tails, "meta")
    with MadeOn() as made:
        segments = Segments(row, torch.float16, 4, 2, (None, 3))
    assert made.devices == {"meta"}
    here = Segments(packed(name), torch.float16, 4, 2, (None, 3))
    assert segments.back.shape == here.back.shape and segments.masks[3].shape == here.masks[3].shape


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["down_proj"], ALL])
def test_dropout_and_adapters_of_some_projections_are_those_of_peft_but_for_the_draw(
    targets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same masks are given to PEFT's modules: one for all that read the same input."""
    drawn: dict[Projection, list[torch.Tensor | None]] = defaultdict(list)
    draw = Projection.mask

    def recorded(self: Projection, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        drawn[self].append(draw(self, x, generator))
        return drawn[self][-1]

    monkeypatch.setattr(Projection, "mask", recorded)
    wrapped, row = tiny(dropout=0.3, targets=targets).train(), packed("prefix and texts")
    decoder = LlamaDecoder(wrapped)
    hidden, gradients = of_decoder(decoder, wrapped, row)
    for number, layer in enumerate(wrapped.get_base_model().get_decoder().layers):
        parts = {**dict(layer.self_attn.named_children()), **dict(layer.mlp.named_children())}
        for names, projection in zip(GROUPS, decoder.projections, strict=True):
            for name in {*names} & {*targets}:
                parts[name].lora_dropout["default"] = Times(drawn[projection][number])
    compare(hidden, gradients, *of_peft(wrapped, row), count=4 * len(targets))


class Times(torch.nn.Module):
    def __init__(self, mask: torch.Tensor | None) -> None:
        super().__init__()
        assert mask is not None
        self._mask = mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self._mask


def test_dropout_drops_its_share_anew_each_time_and_nothing_when_asked() -> None:
    wrapped, row = tiny(dropout=0.25).train(), packed("one text")
    decoder = LlamaDecoder(wrapped)
    torch.manual_seed(1)
    first, second = decoder(row), decoder(row)
    torch.manual_seed(1)
    decoder.checkpointing = True
    assert torch.equal(decoder(row), first) and not torch.equal(first, second)
    mask = decoder.projections[0].mask(torch.empty(1000, 32), torch.Generator().manual_seed(0))
    assert mask is not None and mask.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert float(mask.mean()) == pytest.approx(1, abs=0.02)
    wrapped.eval()
    assert torch.equal(decoder(row), decoder(row))


def test_where_only_some_tokens_are_wanted_these_and_the_gradients_are_the_same() -> None:
    row, positions = packed("prefix and texts"), torch.tensor([5, 11, 12])
    weights, results = torch.randn(3, 32, generator=torch.Generator().manual_seed(2)), []
    for chosen in (positions, None):
        decoder = LlamaDecoder(tiny())
        hidden = decoder(row, chosen) if chosen is not None else decoder(row)[positions]
        (hidden * weights).sum().backward()
        results.append([hidden.detach(), *(weight.grad for weight in decoder.parameters())])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this machine's oneDNN does not multiply bfloat16"
)
def test_packed_weights_give_what_the_weights_give(monkeypatch: pytest.MonkeyPatch) -> None:
    row, results = packed("prefix and texts"), []
    for packs in (True, False):
        monkeypatch.setattr("fourshot.training.lora.llama.pays_to_pack", lambda weights, packs=packs: packs)
        decoder = LlamaDecoder(tiny().bfloat16())
        hidden = decoder(row)[: used_tokens(row)]
        (hidden * slopes(row)).sum().backward()
        results.append([hidden.detach(), *(weight.grad for weight in decoder.parameters())])
    for left, right in zip(*results, strict=True):
        assert (left - right).float().norm() < 0.02 * right.float().norm()


def test_only_bfloat16_on_the_cpu_is_packed_and_only_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.zeros(8, 8)
    assert not pays_to_pack([weight]) and not pays_to_pack([weight.bfloat16().to("meta")])
    monkeypatch.setattr("fourshot.training.lora.projection.free_bytes", lambda device: 1000)
    assert not pays_to_pack([weight.bfloat16()] * 2)


def test_blocks_that_belong_to_no_projection_stay_zero() -> None:
    decoder = LlamaDecoder(tiny())
    decoder(packed("one text")).square().sum().backward()
    qkv = decoder.parameters()[1]
    assert qkv.shape == (2, 3 * 4, 32 + 16 + 16)
    assert qkv.grad is not None and not qkv.grad[:, 4:, :32].any() and not qkv.grad[:, :4, 32:].any()
    assert qkv.grad[:, :4, :32].all()


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"rank_pattern": {"q_proj": 2}},
        {"more": {"hidden_act": "gelu"}},
        {"more": {"attention_dropout": 0.1}},
        {"family": "Granite"},
    ],
)
def test_other_models_do_not_fit(changes: dict[str, Any]) -> None:
    wrapped = tiny(**changes)
    assert not decoder_supports(wrapped)
    with pytest.raises(ValueError, match="not a Llama"):
        LlamaDecoder(wrapped)


def test_stacked_weights_are_not_copied_twice_and_say_the_same() -> None:
    wrapped = tiny()
    layer = wrapped.get_base_model().get_decoder().layers[0].self_attn
    bases = [layer.q_proj.base_layer.weight, layer.k_proj.base_layer.weight, layer.v_proj.base_layer.weight]
    before = torch.cat([base.detach().clone() for base in bases])
    LlamaDecoder(wrapped)
    storage = bases[0].untyped_storage().data_ptr()
    assert all(base.untyped_storage().data_ptr() == storage for base in bases)
    LlamaDecoder(wrapped)  # the next training on this base
    assert bases[0].untyped_storage().data_ptr() == storage
    assert torch.equal(torch.cat([base.detach() for base in bases]), before)

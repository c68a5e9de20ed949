"""The written-out Llama decoder gives the hidden states and gradients of transformers and PEFT."""

from typing import Any

import pytest
import torch

from fourshot.training.lora.llama import GROUPS, LlamaDecoder, fits
from fourshot.training.lora.packing import PackedRow, pack
from fourshot.training.lora.projection import pays_to_pack
from tests.training.lora.test_fast import tiny

TEXTS = {
    "prefix and texts": ([5, 9, 11, 3], [[7, 8], [1, 2, 3, 4, 5, 6], [9]]),
    "a prefix longer than the texts": (list(range(20)), [[7, 8, 1], [2]]),
    "no prefix": ([], [[7, 8, 9, 1], [1, 2]]),
    "one text": ([5, 6], [[7, 8, 9]]),
}


def packed(name: str) -> PackedRow:
    prefix, tails = TEXTS[name]
    return pack(prefix, tails, "cpu")


def of_peft(wrapped: Any, row: PackedRow, weights: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    wrapped.zero_grad()
    wrapped.get_base_model().set_attn_implementation("eager")
    hidden = wrapped.get_base_model().get_decoder()(
        input_ids=row.input_ids, position_ids=row.position_ids, attention_mask=row.mask(torch.float32), use_cache=False
    )
    used = hidden.last_hidden_state[0][: used_tokens(row)]
    (used * weights).sum().backward()
    return used.detach(), {name: one.grad.clone() for name, one in wrapped.named_parameters() if one.requires_grad}


def used_tokens(row: PackedRow) -> int:
    return row.prefix_length + sum(row.lengths)


@pytest.mark.parametrize("name", TEXTS)
def test_hidden_states_and_every_gradient_equal_those_of_transformers_and_peft(name: str) -> None:
    wrapped, row = tiny(), packed(name)
    weights = torch.randn(used_tokens(row), 32, generator=torch.Generator().manual_seed(2))
    expected, gradients = of_peft(wrapped, row, weights)
    decoder = LlamaDecoder(wrapped)
    used = decoder(row)[: used_tokens(row)]
    torch.testing.assert_close(used.detach(), expected, rtol=1e-4, atol=1e-5)
    (used * weights).sum().backward()
    parameters = decoder.parameters()
    assert len(parameters) == len(GROUPS) * 2
    for weight in parameters:  # what write_back gives to PEFT's layers is then the gradient
        assert weight.grad is not None
        weight.data.copy_(weight.grad)
    decoder.write_back()
    found = {name: one for name, one in wrapped.named_parameters() if one.requires_grad}
    assert found.keys() == gradients.keys() and len(found) == 28
    for parameter, gradient in gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[parameter].detach(), gradient, rtol=1e-3, atol=1e-4, msg=parameter)


def test_where_only_some_tokens_are_wanted_these_and_the_gradients_are_the_same() -> None:
    row, positions = packed("prefix and texts"), torch.tensor([5, 11, 12])
    weights, found = torch.randn(3, 32, generator=torch.Generator().manual_seed(2)), []
    for chosen in (positions, None):
        decoder = LlamaDecoder(tiny())
        hidden = decoder(row, chosen) if chosen is not None else decoder(row)[positions]
        (hidden * weights).sum().backward()
        found.append([hidden.detach(), *(weight.grad for weight in decoder.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this machine's oneDNN does not multiply bfloat16"
)
def test_packed_weights_give_what_the_weights_give(monkeypatch: pytest.MonkeyPatch) -> None:
    row, found = packed("prefix and texts"), []
    weights = torch.randn(used_tokens(row), 32, generator=torch.Generator().manual_seed(2))
    for packs in (True, False):
        monkeypatch.setattr("fourshot.training.lora.llama.pays_to_pack", lambda weights, packs=packs: packs)
        decoder = LlamaDecoder(tiny().bfloat16())
        hidden = decoder(row)[: used_tokens(row)]
        (hidden * weights).sum().backward()
        found.append([hidden.detach(), *(weight.grad for weight in decoder.parameters())])
    for one, other in zip(*found, strict=True):
        assert (one - other).float().norm() < 0.02 * other.float().norm()


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


@pytest.mark.parametrize("more", [{"dropout": 0.1}, {"use_dora": True}, {"attention_bias": True}])
def test_other_models_do_not_fit(more: dict[str, Any]) -> None:
    assert not fits(tiny(**more))
    with pytest.raises(ValueError, match="no Llama"):
        LlamaDecoder(tiny(**more))


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

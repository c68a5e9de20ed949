"""The LoRA layer as one step of autograd gives what PEFT's own layer gives."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from fourshot.training.lora.fast import LoraLinear, speed_up

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny(
    dropout: float = 0.0, family: str = "Llama", targets: Sequence[str] = ALL, more: Any = None, **lora: Any
) -> Any:
    """Two layers in float32 with a random adapter; ``more`` is of the base's configuration."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        **(more or {}),
    }
    base = AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**sizes))
    base.requires_grad_(False)
    config = LoraConfig(r=4, lora_alpha=16, lora_dropout=dropout, target_modules=list(targets), **lora)
    wrapped = get_peft_model(base, config)
    for name, weights in wrapped.named_parameters():
        if "lora_B" in name or "bias" in name or "norm" in name:
            torch.nn.init.normal_(weights, std=0.3, mean=float("norm" in name))
    return wrapped


def loss_and_gradients(wrapped: Any) -> tuple[float, dict[str, torch.Tensor]]:
    tokens = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(1))
    wrapped.zero_grad()
    loss = wrapped(input_ids=tokens, labels=tokens).loss
    loss.backward()
    return float(loss.detach()), {
        name: parameter.grad.clone() for name, parameter in wrapped.named_parameters() if parameter.requires_grad
    }


@pytest.mark.parametrize("attention_bias", [False, True])
def test_loss_and_every_gradient_equal_those_of_peft(attention_bias: bool) -> None:
    wrapped = tiny(more={"attention_bias": attention_bias})
    expected_loss, expected = loss_and_gradients(wrapped)
    assert speed_up(wrapped) == 14
    loss, gradients = loss_and_gradients(wrapped)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys() and len(gradients) == 28
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6, msg=name)


def test_gradients_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    x, a, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 5, 6), (3, 6), (7, 3)))
    weight, bias = torch.randn(7, 6, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, a, b: LoraLinear.apply(x, weight, bias, a, b, 4.0), (x, a, b))


@pytest.mark.parametrize("more", [{"dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_layers_that_do_more_keep_peft_s_forward(more: dict[str, Any]) -> None:
    assert speed_up(tiny(**more)) == 0


def test_the_base_is_given_back_as_it_was() -> None:
    wrapped = tiny()
    speed_up(wrapped)
    base = wrapped.unload()
    assert not any(type(module).__module__.startswith("peft") for module in base.modules())
    assert "forward" not in vars(base.model.layers[0].self_attn.q_proj)

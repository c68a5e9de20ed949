"""Which layers get an adapter follows from the base, and what cannot be served is refused before it is trained."""

import json
from pathlib import Path

import pytest

from fourshot.engine.errors import InputError
from fourshot.engine.vllm_seams import lora_support
from fourshot.engine.vllm_seams.lora_support import check_lora_support
from fourshot.training.lora.settings import ALL, ALL_PROJECTIONS, LoraSettings
from fourshot.training.lora.targets import check_trainable, projections, target_modules, unmasked_layers
from tests.engine.tiny_models import FAMILIES, MIXING, tiny_checkpoint

SEVEN = set(ALL_PROJECTIONS)
EXPECTED = {
    "llama": SEVEN,
    "mistral": SEVEN,
    "qwen2": SEVEN,
    "qwen3": SEVEN,
    "gemma3": SEVEN,
    "olmo2": SEVEN,
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "gpt_neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "falcon": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
}
# What of their layers says so in the names of weights.
NAMED = {"lfm2": "conv", "falcon_h1": "mamba", "recurrent_gemma": "temporal_block", "granite_hybrid": "mamba"}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_projections_of_a_family_are_found_in_its_checkpoint(family: str, tmp_path: Path) -> None:
    assert set(target_modules(tiny_checkpoint(family, tmp_path), ALL)) == EXPECTED[family]


def test_the_usual_projections_come_in_the_usual_order(tmp_path: Path) -> None:
    """PEFT draws A matrices in the order of the layers, but names in a file are as they always were."""
    assert target_modules(tiny_checkpoint("llama", tmp_path), ALL) == ALL_PROJECTIONS


def test_a_checkpoint_without_weights_is_known_by_its_architecture(tmp_path: Path) -> None:
    folder = tiny_checkpoint("gpt_neox", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert set(projections(folder)) == EXPECTED["gpt_neox"]


def test_names_that_the_base_does_not_have_are_refused_with_those_it_has(tmp_path: Path) -> None:
    folder = tiny_checkpoint("phi3", tmp_path)
    assert target_modules(folder, ("qkv_proj",)) == ("qkv_proj",)
    with pytest.raises(
        InputError, match=r"no q_proj and no v_proj .*down_proj, gate_up_proj, o_proj, qkv_proj"
    ) as error:
        target_modules(folder, ("q_proj", "v_proj"))
    assert error.value.exit_code == 2 and "'all'" in str(error.value)


def test_the_seven_names_mean_all_as_they_did_when_all_was_not_a_word() -> None:
    assert LoraSettings(target_modules=ALL_PROJECTIONS) == LoraSettings() and LoraSettings().target_modules == ALL


@pytest.mark.parametrize("family", ["gpt2", "falcon"])
def test_a_base_that_vllm_serves_no_adapters_on_is_refused(family: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(family, tmp_path)
    with pytest.raises(InputError, match=r"does not support LoRA adapters on .*zero_shot,icl"):
        check_trainable(folder, ALL)


@pytest.mark.parametrize("family", MIXING)
def test_a_base_that_mixes_the_texts_of_a_packed_row_is_refused(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourshot.training.lora.targets.check_lora_support", lambda model: None)  # it loads vLLM
    folder = tiny_checkpoint(family, tmp_path)
    with pytest.raises(InputError, match=r"of a packed row .* no adapter can be trained on it") as error:
        check_trainable(folder, ALL)
    assert error.value.exit_code == 2
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layer_types": None}))  # as in many checkpoints
    assert unmasked_layers(folder) == [NAMED[family]]


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_attention_alone_keep_texts_apart(family: str, tmp_path: Path) -> None:
    assert unmasked_layers(tiny_checkpoint(family, tmp_path)) == []


def test_what_is_known_of_vllm_is_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    architectures = lora_support.KNOWN
    monkeypatch.setattr(lora_support, "KNOWN", ())
    assert [
        architecture for architecture in architectures if not lora_support.takes_adapters.__wrapped__(architecture)
    ] == []


def test_an_architecture_that_was_never_tried_is_asked_of_vllm(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["OPTForCausalLM"]}')
    check_lora_support(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchForCausalLM"]}')
    with pytest.raises(InputError, match="NoSuchForCausalLM"):
        check_lora_support(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "part"),
    [("Gemma3ForConditionalGeneration", "text_config"), ("Qwen2VLForConditionalGeneration", "vision_config")],
)
def test_a_base_that_reads_images_too_is_refused_before_anything_is_trained(
    tmp_path: Path, architecture: str, part: str
) -> None:
    (tmp_path / "config.json").write_text(f'{{"architectures": ["{architecture}"], "{part}": {{"num_layers": 2}}}}')
    with pytest.raises(InputError, match=rf"{architecture} .* has {part}\..*text-only"):
        check_trainable(str(tmp_path), ALL)

"""A GGUF file as base model says what the checkpoint says that it was made from, or it is refused."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fourshot.engine.checkpoints.gguf_check import TEXT
from fourshot.engine.checkpoints.gguf_model import convert, gguf_checkpoint, is_whole
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import ModelNotFoundError
from fourshot.engine.tokens import encode_prompts, load_tokenizer
from tests.engine.gguf_files import write_gguf
from tests.engine.prompts import IN_CONTEXT
from tests.engine.tiny_models import tiny_checkpoint

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3"}
# Every sixth layer of a Gemma 3 sees all, as no GGUF file says.
CHANGES: dict[str, dict[str, Any]] = {"gemma3": {"num_hidden_layers": 6, "layer_types": None}}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that knows one text by heart, as a GGUF file."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("learnt")
    checkpoint = tiny_checkpoint("llama", folder / "checkpoint")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    ids = torch.tensor(encode_prompts(load_tokenizer(checkpoint), [TEXT.strip()]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss) < 2
    model.to(torch.bfloat16).save_pretrained(checkpoint)
    return write_gguf(checkpoint, folder / "learnt.gguf", "llama")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def logits(checkpoint: str | Path, ids: list[int]) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype="auto")
        return model(input_ids=torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_what_is_read_back_is_the_checkpoint_that_was_written(family: str, tmp_path: Path) -> None:
    original = tiny_checkpoint(family, tmp_path / "given", **CHANGES.get(family, {}))
    file, converted = write_gguf(original, tmp_path / "model.gguf", ARCHITECTURES[family]), tmp_path / "read"
    converted.mkdir()
    convert(file, converted)
    texts = [TEXT, "Label:", "Label: positive", "a  b\n\nc 2026", *IN_CONTEXT]
    tokens = encode_prompts(load_tokenizer(original), texts)
    assert encode_prompts(load_tokenizer(converted), texts) == tokens
    within = tokens[0] if family != "mistral" else tokens[0][:32]  # its window, which is then the longest text
    expected = logits(original, within)
    assert expected.float().std() > 0.5
    assert torch.equal(logits(converted, within), expected)


def test_a_file_is_a_model_and_converted_once(learnt: Path, tmp_path: Path, home: Path) -> None:
    first = resolve_model(str(learnt))
    assert first.name == str(learnt) and is_whole(Path(first.path)) and Path(first.path).parent == home / "models"
    written = (Path(first.path) / "model.safetensors").stat().st_mtime_ns
    renamed = shutil.copy(learnt, tmp_path / "learnt.gguf")
    assert resolve_model(str(renamed)) == type(first)(path=first.path, name=str(renamed), revision=first.revision)
    assert (Path(first.path) / "model.safetensors").stat().st_mtime_ns == written
    (Path(first.path) / "tokenizer.json").write_text("{}")  # is then no longer whole
    assert resolve_model(str(learnt)) == first
    assert (Path(first.path) / "model.safetensors").stat().st_mtime_ns > written


def test_weights_in_the_wrong_places_are_noticed(learnt: Path, tmp_path: Path, home: Path) -> None:
    """Rows of q and k are in another order in a Llama's GGUF file than in the same one's of Qwen 2."""
    checkpoint = learnt.parent / "checkpoint"
    wrong = write_gguf(str(checkpoint), tmp_path / "wrong.gguf", "llama", permuted=False)
    with pytest.raises(ModelNotFoundError, match=r"does not predict English text: \d+\.\d nats per token"):
        resolve_model(str(wrong))
    assert not [path for path in home.glob("models/*") if path.suffix != ".lock"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left_out": "layers.1.mlp.up_proj"}, r"lacks 1 of the model's weights, model\.layers\.1\.mlp\.up_proj"),
        ({"more": "blk.0.attn_sinks.weight"}, r"holds [\d,]+ weights; transformers reads"),
        ({"scaling": "yarn"}, r"rope\.scaling\.type is yarn"),
        ({"rope_freqs": torch.full((16,), 3.0)}, "in another way than Llama 3.1 to 3.3"),
    ],
)
def test_a_file_that_would_be_read_in_part_is_refused(
    learnt: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = write_gguf(str(learnt.parent / "checkpoint"), tmp_path / "part.gguf", "llama", **changes)
    with pytest.raises(ModelNotFoundError, match=message) as error:
        gguf_checkpoint(file)
    assert error.value.exit_code == 2 and "safetensors" in str(error.value)


def test_positions_scaled_as_llama_3_does_are_found_in_the_file(learnt: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = AutoConfig.from_pretrained(learnt.parent / "checkpoint")
    plain = float(config.rope_parameters["rope_theta"]) ** -(torch.arange(0, 32, 2) / 32)
    scaling = {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config.rope_parameters = {**config.rope_parameters, "rope_type": "llama3", **scaling}
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    file = write_gguf(str(learnt.parent / "checkpoint"), tmp_path / "llama3.gguf", "llama", rope_freqs=plain / scaled)
    (tmp_path / "read").mkdir()
    convert(file, tmp_path / "read")
    config_read = AutoConfig.from_pretrained(tmp_path / "read")
    assert (
        config_read.rope_parameters.items() >= scaling.items() and config_read.rope_parameters["rope_type"] == "llama3"
    )


@pytest.mark.parametrize(("begins", "expected"), [(True, True), (False, False), (None, True)])
def test_texts_begin_as_the_file_says_or_as_llama_cpp_assumes(
    begins: bool | None, expected: bool, tmp_path: Path
) -> None:
    original = tiny_checkpoint("gemma3", tmp_path / "given", **CHANGES["gemma3"])
    file = write_gguf(original, tmp_path / "model.gguf", "gemma3", begins=begins)
    (tmp_path / "read").mkdir()
    convert(file, tmp_path / "read")
    tokenizer = load_tokenizer(tmp_path / "read")
    assert (encode_prompts(tokenizer, ["a word"])[0][0] == tokenizer.bos_token_id) == expected


def test_numbers_are_cut_into_digits_where_the_model_learnt_them_so(tmp_path: Path) -> None:
    original = tiny_checkpoint("llama", tmp_path / "given")
    for cut in ("gpt-2", "smollm"):
        file = write_gguf(original, tmp_path / f"{cut}.gguf", "llama", pre=cut)
        (tmp_path / cut).mkdir()
        convert(file, tmp_path / cut)
    plain, digits = (load_tokenizer(tmp_path / cut) for cut in ("gpt-2", "smollm"))
    assert [word for word, _ in plain.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 26")] == ["in", "Ġ26"]
    assert [word for word, _ in digits.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 26")] == [
        "in",
        "Ġ",
        "2",
        "6",
    ]


def test_what_is_no_gguf_file_is_named(tmp_path: Path, learnt: Path) -> None:
    (tmp_path / "text.gguf").write_text("a text")
    with pytest.raises(ModelNotFoundError, match="does not begin with GGUF"):
        resolve_model(str(tmp_path / "text.gguf"))
    part = shutil.copy(learnt, tmp_path / "model-00001-of-00002.gguf")
    with pytest.raises(ModelNotFoundError, match="one part of several"):
        resolve_model(str(part))
    cut = shutil.copy(learnt, tmp_path / "cut.gguf")
    os.truncate(cut, 5000)
    with pytest.raises(ModelNotFoundError, match="cannot be read as a GGUF model"):
        resolve_model(str(cut))
    half = shutil.copy(learnt, tmp_path / "half.gguf")
    os.truncate(half, learnt.stat().st_size // 2)
    with pytest.raises(ModelNotFoundError, match=r"half\.gguf ends too early \(.* bytes\)\. Copy or fetch it again"):
        resolve_model(str(half))

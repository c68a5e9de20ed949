"""Finding a base model."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fourshot.engine.checkpoints import models
from fourshot.engine.checkpoints.embedded import GGUF_SHA256, NAME
from fourshot.engine.checkpoints.models import resolve_again, resolve_model
from fourshot.engine.errors import InputError, ModelNotFoundError
from fourshot.engine.machine.home import home


@pytest.fixture
def folder(model: str, tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint that a test may spoil; its weights are one small tensor."""
    copy = tmp_path / "model"
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    write_weights(copy / "model.safetensors", 1.0)
    return copy


def write_weights(path: Path, value: float) -> None:
    save_file({"a": np.full(100, value, dtype=np.float32)}, path)


def test_no_name_is_the_embedded_model(model: str) -> None:
    resolved = resolve_model(None)
    assert resolved == resolve_model(NAME)
    assert (resolved.path, resolved.name, resolved.revision) == (model, NAME, GGUF_SHA256[:12])


def test_a_folder_is_known_by_its_content(folder: Path) -> None:
    first = resolve_model(str(folder))
    assert first.path == str(folder.resolve())
    assert resolve_model(str(folder)) == first
    write_weights(folder / "model.safetensors", 2.0)
    assert resolve_model(str(folder)).revision != first.revision


def test_a_folder_that_is_no_model_is_explained_with_all_its_faults(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(ModelNotFoundError) as error:
        resolve_model(str(folder))
    for part in ("BertForSequenceClassification", "no weights", "no tokenizer"):
        assert part in str(error.value)


def test_weights_of_bitsandbytes_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelNotFoundError, match="bitsandbytes, for which vLLM has no layers"):
        resolve_model(str(folder))


@pytest.mark.parametrize(
    ("size", "message"), [(3, "3 bytes.*header too small"), (40, "header"), (300, "300 bytes.*not fully covered")]
)
def test_a_shard_that_was_cut_short_is_named(folder: Path, size: int, message: str) -> None:
    shutil.copy(folder / "model.safetensors", folder / "model-2.safetensors")
    os.truncate(folder / "model-2.safetensors", size)
    with pytest.raises(ModelNotFoundError, match=rf"model-2\.safetensors .*{message}.*copy or fetch it again"):
        resolve_model(str(folder))


def test_a_shard_that_is_missing_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelNotFoundError, match=r"model-2\.safetensors, which its index names, is missing"):
        resolve_model(str(folder))


def test_an_index_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelNotFoundError, match=r"its model\.safetensors\.index\.json cannot be read"):
        resolve_model(str(folder))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "", "its tokenizer.json cannot be read"),
        ("tokenizer.json", '{"version": "1.0", "mod', "its tokenizer.json cannot be read"),
        ("tokenizer.json", "[]", "its tokenizer.json does not contain a tokenizer"),
        ("tokenizer_config.json", "{", "its tokenizer_config.json cannot be read"),
        ("tokenizer.model", "", r"its tokenizer.model does not contain a tokenizer \(0 bytes\)"),
        (
            "config.json",
            '{"architectures": "LlamaForCausalLM"}',
            "architectures in config.json must be a list of names",
        ),
        ("config.json", '{"architectures": [null]}', "architectures in config.json must be a list of names"),
        ("pytorch_model.bin", "PK\3\4 and no end", "pytorch_model.bin is not a pickle of torch, or is incomplete"),
        ("pytorch_model.bin", "version https://git-lfs.github.com/spec/v1", "not a pickle of torch, or is incomplete"),
        ("pytorch_model.bin.index.json", '{"weight_map": {"a": "b.bin"}}', "b.bin, which its index names, is missing"),
    ],
)
def test_a_file_that_was_half_fetched_is_named(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ModelNotFoundError, match=message):
        resolve_model(str(folder))


def test_a_link_that_leads_nowhere_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../blobs/gone")
    with pytest.raises(
        ModelNotFoundError, match=r"model\.safetensors is a link to \.\./blobs/gone, which does not exist"
    ):
        resolve_model(str(folder))


def test_shards_without_their_index_are_not_enough(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelNotFoundError, match=r"neither model\.safetensors nor .* beside model-00001-of-00002"):
        resolve_model(str(folder))


def test_an_adapter_in_place_of_its_base_is_pointed_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    with pytest.raises(ModelNotFoundError, match=r"is an adapter, not a base model\. Its own base is 'owner/base'"):
        resolve_model(str(folder))


def test_a_folder_without_weights_will_do_for_random_ones(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert resolve_model(str(folder), weights=False).path == str(folder)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("someone/no-such-model", "HF_HUB_OFFLINE"),
        ("not a model!", "neither a folder nor a Hugging Face id"),
        ("./nowhere", "no model folder"),
        ("/nowhere/at/all", "no model folder"),
    ],
)
def test_an_unknown_model_says_what_was_tried_and_how_to_go_on(name: str, part: str) -> None:
    with pytest.raises(ModelNotFoundError, match=part) as error:
        resolve_model(name)
    assert isinstance(error.value, InputError)
    assert error.value.exit_code == 2
    assert "embedded" in str(error.value)


def test_a_folder_that_something_was_made_on_is_not_looked_for_on_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    made_on = resolve_model("model")
    assert resolve_again(made_on.name, made_on.revision) == made_on
    assert resolve_again(NAME, GGUF_SHA256[:12]).name == NAME
    monkeypatch.chdir("/")
    with pytest.raises(
        ModelNotFoundError, match=r"folder or file 'model', which does not exist, seen from /\. .*--model"
    ):
        resolve_again(made_on.name, made_on.revision)


def test_a_revision_that_is_blank_is_not_the_main_one() -> None:
    with pytest.raises(ModelNotFoundError, match="'owner/model@' ends in an @ without a revision"):
        resolve_model("owner/model@")


def test_the_home_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path / "elsewhere"))
    assert home() == tmp_path / "elsewhere"
    monkeypatch.delenv("FOURSHOT_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home() == tmp_path / "fourshot"


def test_weights_that_this_user_may_not_read_are_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")  # what safetensors says; root may read everything

    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr("safetensors.safe_open", refused)
    assert "cannot be opened" in models.broken_shards(tmp_path)[0]
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*model\.safetensors'"):
        models.broken_shards(tmp_path)


def test_a_tokenizer_of_another_model_is_told_before_anything_is_made(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text()) if (folder / "tokenizer.json").exists() else {}
    for vocabulary in ({"a": 0, "b": 900_000}, [["a", 0.0]] * 900_001):
        (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "model": {"vocab": vocabulary}}))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 49_152}))
        with pytest.raises(
            ModelNotFoundError, match="ids up to 900,000, but the model has rows for only 49,152 tokens"
        ):
            resolve_model(str(folder))
        (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 900_001}))
        resolve_model(str(folder))


def test_the_embedded_model_is_itself_by_its_folder_too(model: str) -> None:
    assert resolve_model(model) == resolve_model(None)


def test_a_file_that_is_no_gguf_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelNotFoundError, match=r"is a file, but not a GGUF file\. Name its folder"):
        resolve_model(str(tmp_path / "model.safetensors"))

"""Finding a base model."""

import json
import shutil
from pathlib import Path

import pytest

from engine.embedded import GGUF_SHA256, NAME
from engine.errors import InputError, ModelNotFoundError
from engine.home import home
from engine.models import resolve_model


@pytest.fixture
def folder(model: str, tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint that a test may spoil; its weights are two bytes."""
    copy = tmp_path / "model"
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    (copy / "model.safetensors").write_bytes(b"ab")
    return copy


def test_no_name_is_the_embedded_model(model: str) -> None:
    resolved = resolve_model(None)
    assert resolved == resolve_model(NAME)
    assert (resolved.path, resolved.name, resolved.revision) == (model, NAME, GGUF_SHA256[:12])


def test_a_folder_is_known_by_its_content(folder: Path) -> None:
    first = resolve_model(str(folder))
    assert first.path == str(folder.resolve())
    assert resolve_model(str(folder)) == first
    (folder / "model.safetensors").write_bytes(b"ac")
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


def test_the_home_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path / "elsewhere"))
    assert home() == tmp_path / "elsewhere"
    monkeypatch.delenv("FOURSHOT_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home() == tmp_path / "fourshot"

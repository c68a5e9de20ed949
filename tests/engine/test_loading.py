"""Loading a checkpoint as a whole, or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourshot.engine.checkpoints.loading import load_base, load_or_explain
from fourshot.engine.core import Adapter, EngineSettings
from fourshot.engine.errors import AdapterError, ModelNotFoundError
from fourshot.engine.opening import open_engine
from fourshot.engine.tokens import load_tokenizer
from tests.engine.tiny_models import FAMILIES, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_checkpoint("llama", tmp_path_factory.mktemp("whole")))


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def changed(folder: Path, **changes: Any) -> str:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_checkpoint_of_every_family_is_loaded(family: str, tmp_path: Path) -> None:
    assert load_base(tiny_checkpoint(family, tmp_path)).config.vocab_size > 0


def test_weights_that_no_file_holds_are_not_made_up(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"lacks 18 of its weights, model\.layers\.2\..* for example"):
        load_base(changed(folder, num_hidden_layers=4))


def test_weights_of_another_shape_are_named(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"has 6 weights of the wrong shape, model\.layers\.0\.mlp"):
        load_base(changed(folder, intermediate_size=128))


def test_code_that_a_checkpoint_brings_is_not_run(folder: Path) -> None:
    name = changed(folder, model_type="theirs", auto_map={"AutoConfig": "theirs.Config"})
    with pytest.raises(ModelNotFoundError, match="brings Python code of its own, which fourshot does not run"):
        load_base(name)


def test_a_format_without_its_package_is_named(folder: Path) -> None:
    name = changed(folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    with pytest.raises(ModelNotFoundError, match=r"needs a package that is not installed \(.*GPTQ.*16-bit checkpoint"):
        load_base(name)


def test_a_tokenizer_that_cannot_be_loaded_is_bad_input(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(ModelNotFoundError, match=r"The tokenizer in .* cannot be loaded: .* unknown to transformers"):
        load_tokenizer(folder)


def test_memory_that_ran_out_is_no_fault_of_the_files() -> None:
    def load() -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    with pytest.raises(RuntimeError, match="allocate memory"):
        load_or_explain(load, "base model", "anywhere")


def test_an_adapter_without_weights_is_not_looked_for_on_the_hub(checkpoint: Path, tmp_path: Path) -> None:
    engine = open_engine(EngineSettings(model=str(checkpoint), kind="transformers"))
    with pytest.raises(AdapterError, match=r"has no weights \(adapter_model\.\*\)\. Copy it again completely\."):
        engine.score(["Label:"], ["good", "bad"], Adapter(name="a", path=str(tmp_path)))
    engine.close()


def test_texts_are_padded_with_a_token_that_the_base_has(tmp_path: Path) -> None:
    """transformers gives a Qwen 2 tokenizer without <|endoftext|> that token, behind all that the model knows."""
    engine: Any = open_engine(EngineSettings(model=tiny_checkpoint("qwen2", tmp_path), kind="transformers"))
    assert engine._tokenizer.pad_token_id >= engine._model.config.vocab_size
    prompts = ["Label:", "A longer text.\nLabel:"]
    alone = np.concatenate([engine.score([prompt], ["good", "bad"]) for prompt in prompts])
    np.testing.assert_allclose(engine.score(prompts, ["good", "bad"]), alone, atol=0.1)
    engine.close()

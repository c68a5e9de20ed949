"""Adapters that other trainers made: docs/inputs.md says what becomes of them."""

import json
from pathlib import Path

import pytest

from fourshot.cli import main as cli

CONFIG = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "some/base"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    changed: list[tuple[str, str, dict[str, object]]] = [
        ("plain", "adapter_model.safetensors", {}),
        ("dora", "adapter_model.safetensors", {"use_dora": True}),
        ("whole-layers", "adapter_model.safetensors", {"modules_to_save": ["lm_head"]}),
        ("pickled", "adapter_model.bin", {}),
        ("checkpoint-60/inner", "adapter_model.safetensors", {}),
    ]
    for name, weights, more in changed:
        made = tmp_path / "served" / name
        made.mkdir(parents=True)
        (made / "adapter_config.json").write_text(json.dumps(CONFIG | more))
        (made / weights).write_bytes(b"none of ours")
    return tmp_path / "served"


@pytest.mark.parametrize("name", ["plain", "dora", "whole-layers", "pickled", "checkpoint-60"])
def test_an_adapter_of_another_trainer_is_refused_before_any_engine(
    folder: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in (["adapters", "add", str(folder / name), "--adapters", "own"], ["predict", str(folder / name), "x"]):
        assert cli.main(command) == 2
        said = capfd.readouterr().err
        assert "no card.json: another trainer made it" in said and "train with fourshot" in said
    assert not Path("own").exists()


def test_each_of_them_is_listed_with_the_reason_and_can_be_removed(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["adapters", "list", "--adapters", str(folder)]) == 0
    shown = capfd.readouterr()
    for name in ("plain", "dora", "whole-layers", "pickled", "checkpoint-60"):
        assert f"refused: {name}: " in shown.out + shown.err
    assert cli.main(["adapters", "remove", "dora", "--adapters", str(folder)]) == 0
    assert not (folder / "dora").exists() and (folder / "plain").is_dir()

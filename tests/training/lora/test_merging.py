"""A merged checkpoint answers as base and adapter did, without knowing of LoRA."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourshot.engine.core import Engine, EngineSettings
from fourshot.engine.errors import AdapterError
from fourshot.engine.opening import open_engine
from fourshot.engine.probe import check_probe
from fourshot.training.lora.examples import TrainingResult
from fourshot.training.lora.merging import merge
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.train import LoraTrainer
from tests.training import notes


@pytest.fixture(scope="module")
def result(trainer: LoraTrainer, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    folder = tmp_path_factory.mktemp("trained")
    return trainer.train(notes.examples(), notes.WORDS, LoraSettings(max_steps=20), folder)


@pytest.fixture(scope="module")
def merged(model: str, result: TrainingResult, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    out = tmp_path_factory.mktemp("merged") / "notes"
    out.mkdir()
    (out / "of-an-earlier-merge").touch()
    engine = open_engine(EngineSettings(model=str(merge(model, result.path, out)), kind="transformers"))
    assert not (out / "of-an-earlier-merge").exists()
    yield engine
    engine.close()


def test_it_answers_as_the_trainer_did(merged: Engine, result: TrainingResult) -> None:
    assert result.probe
    assert check_probe(merged, None, result.probe).difference < 0.05


def test_the_probe_tells_it_from_the_base(reference_engine: Engine, result: TrainingResult) -> None:
    assert result.probe
    with pytest.raises(AdapterError, match="The model does not predict as it did in training"):
        check_probe(reference_engine, None, result.probe)


def test_another_base_is_refused_and_leaves_nothing(tiny_model: str, result: TrainingResult, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="does not fit the base"):
        merge(tiny_model, result.path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_an_error_of_the_disk_and_leaves_nothing(
    model: str, result: TrainingResult, tmp_path: Path
) -> None:
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, usual[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            merge(model, result.path, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not list(tmp_path.iterdir())

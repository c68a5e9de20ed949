"""A training over several processes is that of one, but for rounding."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fourshot.engine.errors import FourshotError, InputError
from fourshot.training.jobs import processes
from fourshot.training.jobs.jobs import CHECKPOINT_FILE, Placement, TrainingJob, do_job, finished
from fourshot.training.jobs.processes import do_job_over_processes
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.share import BatchShare
from fourshot.training.lora.train import LoraTrainer
from tests.training import notes

JOB = TrainingJob(
    name="notes",
    model_revision="",
    examples=tuple(notes.examples()),
    held_out=tuple(notes.examples(("Toast.",), ("Sleet.",))),
    labels=notes.WORDS,
    settings=LoraSettings(min_steps=8, max_steps=8, batch_size=3, min_warmup_steps=0, learning_rate=0.003),
)


def test_every_example_of_a_batch_is_somebodys() -> None:
    assert [BatchShare(rank=rank, world=3).of([5, 7, 1, 4]) for rank in range(3)] == [[5, 4], [7], [1]]
    assert BatchShare(rank=2, world=3).of([5]) == []


def test_two_processes_learn_what_one_learns(decided_model: str, decided_trainer: LoraTrainer, tmp_path: Path) -> None:
    steps: list[tuple[int, int, float]] = []
    alone = do_job(decided_trainer, JOB, tmp_path / "alone")
    shared = do_job_over_processes(decided_model, JOB, tmp_path / "shared", 2, lambda *progress: steps.append(progress))
    assert finished(tmp_path / "shared", JOB) == shared
    assert [step for step, _, _ in steps] == list(range(1, 9))
    assert shared.losses == pytest.approx(alone.losses, rel=0.05, abs=0.02)
    assert alone.probe and shared.probe
    apart = np.abs(np.array(alone.probe.probabilities) - np.array(shared.probe.probabilities))
    assert apart.max() < 0.05
    assert np.mean(alone.losses[-2:]) < 0.6 * np.mean(alone.losses[:3]), "or equal answers would say nothing"
    assert shared.best_step == alone.best_step
    folder = tmp_path / "shared" / JOB.key
    assert sorted(file.name for file in folder.iterdir()) == sorted([shared.name, "result.json"])
    assert not (folder / CHECKPOINT_FILE).exists()


def test_what_goes_wrong_there_is_raised_here(tiny_model: str, tmp_path: Path) -> None:
    one_label = msgspec.structs.replace(JOB, labels=("warm",), examples=JOB.examples[:1], held_out=())
    with pytest.raises(InputError, match="at least two labels"):
        do_job_over_processes(tiny_model, one_label, tmp_path, 2)


def test_the_processes_share_the_cores_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable has all of a job's cores: a user sets it, and Ray does for each of its tasks."""
    environments: list[dict[str, str]] = []

    def start(*_: object, environment: dict[str, str]) -> None:
        environments.append(environment)
        raise FourshotError("not started")

    monkeypatch.setattr(processes, "ChildProcess", start)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with pytest.raises(FourshotError, match="not started"):
        do_job_over_processes("", JOB, tmp_path, 2)
    assert environments[0]["OMP_NUM_THREADS"] == "2"


def test_less_than_one_gpu_is_refused() -> None:
    with pytest.raises(InputError, match="gpus_per_job must be at least 1, got 0"):
        Placement(gpus_per_job=0)

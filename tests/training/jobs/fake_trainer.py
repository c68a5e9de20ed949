"""A fake `LoraTrainer` for Ray's workers: trainings without torch, which can wait or fail as a test specifies."""

import os
import sys
import types
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import save_file

from fourshot.engine.machine.files import settle, staged_folder
from fourshot.training.jobs.jobs import FailedJob, TrainingJob
from fourshot.training.lora.adapter_files import ADAPTER_WEIGHTS
from fourshot.training.lora.examples import OnStep, TrainingExample, TrainingResult
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.share import ALL
from tests.waiting import wait_for

MACHINE = "FOURSHOT_TEST_MACHINE"  # environment variable of a node with its name in tests
STEPS = 4


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """The behaviour of trainings, read from ``work.json`` beside the store."""

    hold: str = ""  # name of a machine whose trainings end only once the file ``go`` exists
    full: str = ""  # name of a machine whose disk is full
    breaks: int = -1  # seed of a training in which a library fails


def jobs(count: int, name: str = "notes") -> list[TrainingJob]:
    example = TrainingExample(prompt="Label:", target=0)
    plain = TrainingJob(
        name=name, model_revision="", examples=(example,), labels=("warm", "cold"), settings=LoraSettings()
    )
    return [msgspec.structs.replace(plain, seed=seed) for seed in range(count)]


class FakeTrainer:
    """A trainer whose adapters are files with the seed."""

    share = ALL

    def __init__(self, model: str) -> None:
        self._model = Path(model)
        assert (self._model / "config.json").is_file()

    def train(
        self, *_: Any, seed: int, prefix: str, on_step: OnStep | None, checkpoint: Path, **__: Any
    ) -> TrainingResult:
        folder, machine = checkpoint.parent, os.environ.get(MACHINE, "")
        beside = folder.parent.parent
        behaviour = msgspec.json.decode((beside / "work.json").read_bytes(), type=Behaviour)
        with (beside / f"begun-{machine}").open("a") as begun:
            begun.write(f"{seed}\n")
        if machine and machine == behaviour.full:
            raise OSError(28, "No space left on device", "/scratch")
        if seed == behaviour.breaks:
            raise RuntimeError("no kernel image is available")
        for step in range(1, STEPS + 1):
            if on_step:
                on_step(step, STEPS, 1.0)
        if machine and machine == behaviour.hold:
            wait_for((beside / "go").exists, "the test", 120)
        name = f"{prefix}-{seed:012d}"
        with staged_folder(folder) as staged:
            save_file({"seed": np.array([seed])}, staged / ADAPTER_WEIGHTS)
            if not (folder / name).exists():
                settle(staged, folder / name)
        return TrainingResult(
            name=name,
            path=str(folder / name),
            steps=STEPS,
            planned_steps=STEPS,
            losses=(1.0,) * STEPS,
            tokens=0,
            seconds=0.0,
            examples=1,
        )


def install() -> None:
    """Replace `LoraTrainer`. Ray calls this at the start of every worker."""
    module: Any = types.ModuleType("fourshot.training.lora.train")
    module.LoraTrainer = FakeTrainer
    sys.modules["fourshot.training.lora.train"] = module


def seeds_begun(beside: Path, machine: str) -> list[int]:
    """Return the seeds of the trainings that ``machine`` has begun, in order."""
    file = beside / f"begun-{machine}"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def check_each_is_there_once(outcomes: list[TrainingResult | FailedJob], store: Path) -> None:
    assert not [outcome for outcome in outcomes if isinstance(outcome, FailedJob)]
    assert [outcome.name for outcome in outcomes if isinstance(outcome, TrainingResult)] == [
        f"notes-{seed:012d}" for seed in range(len(outcomes))
    ]
    stored = {folder.name: sorted(entry.name for entry in folder.iterdir()) for folder in store.iterdir()}
    assert stored == {job.key: [f"notes-{job.seed:012d}", "result.json"] for job in jobs(len(outcomes))}

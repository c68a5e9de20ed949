"""Content-addressed trainings: a finished job with the same examples and settings is not trained again."""

import hashlib
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine.checkpoints.models import broken_shards
from fourshot.engine.core import Typed, Verbalizer
from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import read_made, remove_folder, write_json
from fourshot.training.lora.adapter_files import ADAPTER_WEIGHTS
from fourshot.training.lora.examples import OnStep, TrainingExample, TrainingResult
from fourshot.training.lora.settings import ALL, ALL_PROJECTIONS, LoraSettings

if TYPE_CHECKING:
    from fourshot.training.lora.train import LoraTrainer

IMPORTS = "fourshot.training.lora.imports"  # importing these takes most of the start of a training process
RESULT_FILE = "result.json"
CHECKPOINT_FILE = "unfinished.pt"


class TrainingJob(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One adapter to train."""

    name: str  # prefix of the adapter's name
    model_revision: str
    examples: tuple[TrainingExample, ...]
    held_out: tuple[TrainingExample, ...] = ()  # never trained on: they select the epoch whose weights are saved
    labels: tuple[str, ...]  # words
    verbalizer: Verbalizer = "word"  # the tokens that stand for each label
    settings: LoraSettings
    seed: int = 0

    @cached_property
    def key(self) -> str:
        """Hash of everything that determines the adapter's bytes."""
        content = msgspec.to_builtins(self)
        if content["settings"]["target_modules"] == ALL:
            # Earlier versions wrote the names instead of `ALL`; adapters in existing stores keep their keys.
            content["settings"]["target_modules"] = ALL_PROJECTIONS
        # Earlier versions did not have the next four settings. With these values they have no effect.
        if not self.settings.min_warmup_steps:
            del content["settings"]["min_warmup_steps"]
        if not self.settings.converged_steps:
            del content["settings"]["converged_steps"]
        if self.settings.adapted_layers == 1:
            del content["settings"]["adapted_layers"]
        if 0 < self.settings.max_steps <= self.settings.soft_max_steps:
            del content["settings"]["soft_max_steps"]
        return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]


class Placement(Typed, frozen=True, kw_only=True):
    """Where trainings run. It does not affect their results, except for rounding."""

    ray: str = ""  # address of the cluster: "local", "auto", HOST:PORT; empty: this machine
    at_once: int = 0  # parallel trainings on this machine; 0: as many as its cores and memory allow
    gpus_per_job: int = 1  # GPUs that share each training; without GPUs, processes with an equal share of the cores
    gpus_per_engine: int = 1  # GPUs that share each engine's weights

    def __post_init__(self) -> None:
        if self.at_once < 0:
            raise InputError(f"train_at_once must be at least 1, or 0 for as many as fit, got {self.at_once}.")
        if self.gpus_per_job < 1:
            raise InputError(f"gpus_per_job must be at least 1, got {self.gpus_per_job}.")
        if self.gpus_per_engine < 1:
            raise InputError(f"gpus_per_engine must be at least 1, got {self.gpus_per_engine}.")


HERE = Placement()


class FailedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A failed piece of work, and why it failed."""

    key: str  # of the training; for other work, the folder it would have written
    kind: str  # class name of the error
    message: str


# Arguments: index of the job among those passed, from 0; step; planned steps; loss in nats.
OnJobStep = Callable[[int, int, int, float], None]


def finished(store: Path, job: TrainingJob) -> TrainingResult | None:
    """Return the result of a job in ``store``, with its current path, because stores may be moved.

    None if the job is not finished, or if its weights are missing or incomplete, such as after a copy without large
    files.
    """
    file = store / job.key / RESULT_FILE
    if not file.exists():
        return None
    result = read_made(file, TrainingResult)
    adapter = store / job.key / result.name
    if not (adapter / ADAPTER_WEIGHTS).is_file() or broken_shards(adapter):
        return None
    return msgspec.structs.replace(result, path=str(adapter.resolve()))


def lost(store: Path, jobs: Iterable[TrainingJob]) -> list[str]:
    """Return the folders of finished jobs whose weights are missing or incomplete."""
    return [
        str(store / job.key) for job in jobs if (store / job.key / RESULT_FILE).exists() and not finished(store, job)
    ]


def do_job(trainer: "LoraTrainer", job: TrainingJob, store: Path, on_step: OnStep | None = None) -> TrainingResult:
    """Train ``job`` into ``store``, from its checkpoint if there is one. The job is finished once `RESULT_FILE` exists.

    If another machine finished it meanwhile, that result is returned and this one is removed.
    """
    folder = store / job.key
    result = trainer.train(
        job.examples,
        job.labels,
        job.settings,
        folder,
        seed=job.seed,
        prefix=job.name,
        on_step=on_step,
        checkpoint=folder / CHECKPOINT_FILE,
        held_out=job.held_out,
        verbalizer=job.verbalizer,
    )
    if not trainer.share.is_main:
        return result  # the first process of the data-parallel training writes it
    if earlier := finished(store, job):  # trained twice: another machine, or this one, was disconnected for a while
        if earlier.name != result.name:
            remove_folder(folder / result.name)
        return earlier
    write_json(folder / RESULT_FILE, result)
    return result

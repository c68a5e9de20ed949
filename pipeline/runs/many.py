"""Many tasks, one base: every stage is done for all of them before the next begins.

So one engine writes the texts of all tasks, and all trainings are one queue, in this process or over a Ray cluster. A
task that fails drops out at that stage with its reason; the others go on.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.models import resolve_model
from fourshot.pipeline.card import LINK
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.generation import GenerateItem, fill_folders
from fourshot.pipeline.runs.orders import Order, ProbeOrder, TrainOrder
from fourshot.pipeline.runs.run import prepare
from fourshot.pipeline.runs.run_folder import RunFolder
from fourshot.pipeline.runs.trainings import check_cluster
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.worker import run_in_process
from fourshot.pipeline.tasks.shots import SHOTS_STEM
from fourshot.pipeline.tasks.tables import find_split_file
from fourshot.pipeline.tasks.task_file import find_task_file, load_task, shipped_tasks
from fourshot.pipeline.tasks.types import Task
from fourshot.training.jobs.jobs import HERE, FailedJob, Placement, TrainingJob

OUTCOME_FILE = "tasks.json"


class TaskOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one task."""

    task: str
    state: Literal["finished", "failed"]
    folder: str = ""
    adapter_path: str = ""
    synthetic_examples: int = 0
    steps: int = 0
    loss: float | None = None  # of the last step, nats
    train_s: float = 0.0
    error: str = ""  # class name of what went wrong
    message: str = ""


def load_tasks(paths: Iterable[str | Path], data: str | Path | None = None) -> dict[str, Task | FourshotError]:
    """The tasks that names, files and folders stand for, by name; where a file is faulty, the error, by its path.

    A folder stands for the task files in it and in the folders directly below it. ``data`` takes the place of the
    tasks' own data: a folder with a folder for each task, named as it, or with the files themselves. Raises InputError
    where a path stands for nothing, or two tasks have the same name.
    """
    tasks: dict[str, Task | FourshotError] = {}
    origin: dict[str, Path] = {}
    for file in dict.fromkeys(file.resolve() for path in paths for file in _task_files(path)):
        try:
            task = load_task(file)
        except FourshotError as error:
            tasks[str(file)] = error
            continue
        if task.name in tasks:
            raise InputError(
                f"Two tasks are called {task.name!r}: {origin[task.name]} and {file}. Adapters and folders are named "
                "after tasks: give each a name of its own."
            )
        origin[task.name] = file
        try:
            tasks[task.name] = task if data is None else load_task(file, _data_of(task.name, Path(data)))
        except FourshotError as error:
            tasks[task.name] = error
    return tasks


def _data_of(name: str, data: Path) -> Path:
    """The task's own folder in ``data``, or ``data`` itself where the files are there."""
    if (data / name).is_dir():
        return data / name
    if data.is_dir() and not any(find_split_file(data, stem) for stem in ("train", "test", SHOTS_STEM)):
        raise InputError(
            f"{data} has no folder {name!r}, and no train file itself. Put the task's files into {data / name}, or "
            "give the folder that has them (--data)."
        )
    return data


def train_tasks(
    tasks: Mapping[str, Task | FourshotError],
    model: str | None,
    settings: RunSettings,
    root: Path,
    on_event: OnEvent = ignore,
    placement: Placement = HERE,
) -> list[TaskOutcome]:
    """One adapter per task, each run in ``root``/<task>, all adapters in ``root``/adapters; what is finished is kept.

    ``tasks`` is what `load_tasks` gives; errors in it come back as outcomes. Raises InputError for no tasks, a model
    that is none, a cluster that is not there.
    """
    check_cluster(placement)
    if not tasks:
        raise InputError("There is no task to train. Give names, task files, or folders with task files.")
    with RunFolder(root).lock():
        queue = _Queue(tasks, model, settings, root, on_event, placement)
        queue.run()
        outcomes = queue.outcomes()
        if queue.has_begun:
            RunFolder(root).write(OUTCOME_FILE, outcomes)
        return outcomes


class _Queue:
    """The tasks that are still in the running, and why the others are not."""

    def __init__(
        self,
        tasks: Mapping[str, Task | FourshotError],
        model: str | None,
        settings: RunSettings,
        root: Path,
        on_event: OnEvent,
        placement: Placement,
    ) -> None:
        self._names, self._root, self._on_event, self._placement = list(tasks), root, on_event, placement
        self._model = resolve_model(model)
        self._store = root / "adapters"
        self._failed: dict[str, FailedJob] = {}
        self._runs: dict[str, Experiment] = {}
        on_event(Event(stage="shots", message=f"reading the data, tasks: {len(tasks)}"))
        for name, task in tasks.items():
            try:
                if isinstance(task, FourshotError):
                    raise task
                self._runs[name] = prepare(task, settings, root / name, self._store, self._model)
                self._runs[name].claim()
                _lead(root / name / "adapters", self._store)  # so that `evaluate --out` there finds them
            except FourshotError as error:
                self._drop(name, FailedJob(key=name, kind=type(error).__name__, message=str(error)))

    @property
    def has_begun(self) -> bool:
        """Whether any task came so far that something of it lies in the folder."""
        return any((self._root / name / "manifest.json").exists() for name in self._names)

    def run(self) -> None:
        """All stages, each for every task that is left."""
        self._generate({name: run.pools() for name, run in self._runs.items()})
        self._train({name: run.committee_jobs() for name, run in self._runs.items()}, "annotator")
        self._generate({name: run.rounds() for name, run in self._runs.items()})
        self._train({name: run.final_jobs() for name, run in self._runs.items()}, "classifier")
        self._probe()
        for name, run in self._runs.items():
            run.write_cards()
            self._link(name)

    def outcomes(self) -> list[TaskOutcome]:
        """One per task, in the order given."""
        return [self._outcome(name) for name in self._names]

    def _link(self, name: str) -> None:
        """Lead from the task's folder to its adapter."""
        (outcome,) = self._runs[name].outcomes()
        assert outcome.training
        _lead(self._root / name / LINK, Path(outcome.training.path))

    def _outcome(self, name: str) -> TaskOutcome:
        if name in self._failed:
            failed = self._failed[name]
            folder = self._root / name if (self._root / name / "manifest.json").exists() else ""
            return TaskOutcome(task=name, state="failed", folder=str(folder), error=failed.kind, message=failed.message)
        (outcome,) = self._runs[name].outcomes()
        assert outcome.training
        return TaskOutcome(
            task=name,
            state="finished",
            folder=str(self._root / name),
            adapter_path=outcome.training.path,
            synthetic_examples=outcome.synthetic_examples,
            steps=outcome.training.steps,
            loss=outcome.training.losses[-1],
            train_s=round(outcome.training.seconds, 1),
        )

    def _generate(self, wanted: Mapping[str, Sequence[GenerateItem]]) -> None:
        items = [item for some in wanted.values() for item in some]
        log = self._root / "log.txt"
        failed = fill_folders(self._model.path, items, log, self._on_event, self._placement, keep_going=True)
        self._drop_all(failed, {name: {item.folder for item in some} for name, some in wanted.items()})

    def _train(self, wanted: Mapping[str, Sequence[TrainingJob]], what: str) -> None:
        jobs = {job.key: job for some in wanted.values() for job in some}
        if jobs:
            order = TrainOrder(
                model_path=self._model.path,
                store=str(self._store),
                jobs=tuple(jobs.values()),
                placement=self._placement,
                keep_going=True,
                what=what,
            )
            self._do(order, {name: {job.key for job in some} for name, some in wanted.items()})

    def _probe(self) -> None:
        probes = {name: run.probes() for name, run in self._runs.items()}
        items = tuple(item for some in probes.values() for item in some)
        if items:
            order = ProbeOrder(model_path=self._model.path, items=items, keep_going=True)
            self._do(order, {name: {item.adapter.name for item in some} for name, some in probes.items()})

    def _do(self, order: Order, keys: Mapping[str, set[str]]) -> None:
        """Have ``order`` done; drop the tasks that needed what failed. ``keys``: by task, what it needs."""
        self._drop_all(run_in_process(order, self._root / "log.txt", self._on_event), keys)

    def _drop_all(self, failed: Sequence[FailedJob], keys: Mapping[str, set[str]]) -> None:
        """Drop the tasks that needed what failed."""
        for failure in failed:
            for name in [name for name, needed in keys.items() if failure.key in needed]:
                self._drop(name, failure)

    def _drop(self, name: str, failure: FailedJob) -> None:
        self._runs.pop(name, None)
        if name not in self._failed:
            self._failed[name] = failure
            why = " ".join(failure.message.removeprefix(name).split())
            self._on_event(Event(stage="failed", message=f"{name}: {why}"))


def _lead(link: Path, target: Path) -> None:
    """Make ``link`` lead to ``target``; relative, so that the folder of both may be moved."""
    making = link.with_name(f".{link.name}")
    making.unlink(missing_ok=True)
    making.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()), target_is_directory=True)
    os.replace(making, link)


def _task_files(path: str | Path) -> list[Path]:
    if str(path) in shipped_tasks() or not Path(path).is_dir():
        return [find_task_file(path)]
    found = sorted([*Path(path).glob("*.toml"), *Path(path).glob("*/*.toml")])
    if not found:
        raise InputError(
            f"The folder {path} holds no task file (.toml), nor do the folders in it. "
            "To write one from a table: fourshot tasks new TABLE."
        )
    return found

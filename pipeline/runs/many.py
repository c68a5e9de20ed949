"""Train one adapter per task on one base model. A task that fails is dropped with its reason; the others continue."""

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel, refuse_fake, resolve_model
from fourshot.engine.errors import FourshotError, InputError, error_class
from fourshot.engine.machine.files import allow_open_files
from fourshot.engine.machine.links import check_links, link_to
from fourshot.pipeline.card import LINK
from fourshot.pipeline.cells.review import report_review
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.forecasts.forecast import Forecast, finish_forecast
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.plan import forecast_of_runs
from fourshot.pipeline.runs.run import load_shots
from fourshot.pipeline.runs.stage_driver import LOG_FILE, StageDriver
from fourshot.pipeline.runs.stages.generate import check_candidates
from fourshot.pipeline.runs.stages.probe import probes
from fourshot.pipeline.settings.effects import check_confidence, tell_unused, unused_in_run
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.work_folder import MANIFEST_FILE
from fourshot.training.jobs.cluster import check_cluster
from fourshot.training.jobs.jobs import HERE, Placement

OUTCOME_FILE = "tasks.json"


class TaskOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one task."""

    task: str
    state: Literal["finished", "failed"]
    folder: str = ""
    adapter_path: str = ""
    synthetic_examples: int = 0
    steps: int = 0
    loss: float | None = None  # of the last step, nats
    train_s: float = 0.0
    error: str = ""  # class name of the exception
    message: str = ""


class TrainingsRequest(msgspec.Struct, frozen=True):
    """Arguments of `do_trainings`."""

    tasks: Mapping[str, Task | FourshotError]  # by name, as `load_tasks` returns them; an error: why a task is missing
    model: str | None
    settings: RunSettings
    root: Path
    placement: Placement = HERE

    @property
    def store(self) -> Path:
        """The folder with the adapters of all tasks."""
        return self.root / "adapters"


def do_trainings(request: TrainingsRequest, on_event: OnEvent = ignore, *, forecast: bool = False) -> list[TaskOutcome]:
    """Train one adapter per task. Runs are in ``root``/<task>, all adapters in ``root``/adapters. Keeps finished work.

    Errors in place of tasks are returned as outcomes. ``forecast``: first report what it will take. Raises InputError
    without tasks, and for a base model or a cluster that does not exist.
    """
    _check(request)
    tasks, root, folder = request.tasks, request.root, RunFolder(request.root)
    allow_open_files(len(tasks))  # the lock of each task's folder is an open file
    with folder.lock(), ExitStack() as locks:
        check_links(root)
        base = _base(request, on_event)
        driver = StageDriver(root / LOG_FILE, on_event, request.placement, keep_going=True)
        new_names = {name for name in tasks if not (root / name).exists()}
        on_event(Event(stage="shots", message=f"reading the data, tasks: {len(tasks)}"))
        for name, task in tasks.items():
            try:
                if isinstance(task, Task):
                    locks.enter_context(RunFolder(root / name).lock())  # other commands can use this folder, too
                driver.add(name, _experiment(request, name, base, on_event))
                link_to(root / name / "adapters", request.store)  # so that `evaluate --out` there finds them
            except FourshotError as error:
                driver.drop(name, error)
        experiments = [*driver.experiments.values()]
        estimate = forecast_of_runs(experiments, "train", on_event, request.placement) if forecast else None
        driver.run("train")
        driver.do(probes)
        driver.write_cards()
        if estimate:
            finish_forecast(estimate, driver.took, folder, on_event, failed=bool(driver.failed))
        for name in new_names & driver.failed.keys():
            if error_class(driver.failed[name].kind).exit_code == InputError.exit_code:
                _forget(root / name)
        outcomes = [_outcome(name, root / name, driver) for name in tasks]
        if any(outcome.folder for outcome in outcomes):
            folder.write(OUTCOME_FILE, outcomes)
        return outcomes


def plan_trainings(request: TrainingsRequest, on_event: OnEvent) -> Forecast | None:
    """Forecast what `do_trainings` would take for the tasks that can be read, at this machine's present speed.

    None where nothing is left to do.
    """
    _check(request)
    base, experiments = _base(request, on_event), list[Experiment]()
    for name in request.tasks:
        try:
            experiments.append(_experiment(request, name, base, on_event))
        except FourshotError as error:
            on_event(Event(stage="failed", message=f"{name}: {' '.join(str(error).split())}"))
    return forecast_of_runs(experiments, "train", on_event, request.placement, anew=True)


def _check(request: TrainingsRequest) -> None:
    """Raise InputError for a request with which no task can be trained."""
    refuse_fake(request.model, "A training")
    check_confidence(request.settings)
    check_cluster(request.placement.ray, request.placement.gpus_per_engine)
    if not request.tasks:
        raise InputError("There is no task to train. Give names, task files, or folders with task files.")


def _base(request: TrainingsRequest, on_event: OnEvent) -> ResolvedModel:
    """Report the settings without effect, then return the base model."""
    unused = unused_in_run(request.settings, has_unlabelled=False)
    tell_unused(request.settings, unused, "shots", on_event)
    return resolve_model(request.model)


def _experiment(request: TrainingsRequest, name: str, model: ResolvedModel, on_event: OnEvent) -> Experiment:
    """Return the run of one task, for its adapter alone. Raises the error that stands in place of the task.

    Also raises what makes its folder unusable: found later, it would end the work on all tasks.
    """
    task, settings, folder = request.tasks[name], request.settings, request.root / name
    if isinstance(task, FourshotError):
        raise task
    data = TaskData(task, on_event, settings, needs_test=False)
    seeds = [load_shots(data, settings, RunFolder(folder))]
    experiment = Experiment(data, model, settings, ["fourshot"], seeds, folder, flat=True, store=request.store)
    experiment.check_trainable()
    check_candidates(experiment)
    experiment.check_claim()
    report_review(RunFolder(folder), task, on_event)
    experiment.outcomes()
    return experiment


def _forget(folder: Path) -> None:
    """Empty the folder of a rejected task, unless something was made there: the corrected command can then use it."""
    if folder.is_dir():
        RunFolder(folder).forget_beginning()
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def _outcome(name: str, folder: Path, driver: StageDriver) -> TaskOutcome:
    """Return the outcome of a task, with its folder if a run was begun there. Link from there to a finished adapter."""
    if failure := driver.failed.get(name):
        begun = str(folder) if RunFolder(folder).has(MANIFEST_FILE) else ""
        return TaskOutcome(task=name, state="failed", folder=begun, error=failure.kind, message=failure.message)
    (outcome,) = driver.experiments[name].outcomes()
    assert outcome.training
    link_to(folder / LINK, Path(outcome.training.path))
    return TaskOutcome(
        task=name,
        state="finished",
        folder=str(folder),
        adapter_path=outcome.training.path,
        synthetic_examples=outcome.synthetic_examples,
        steps=outcome.training.steps,
        loss=outcome.training.losses[-1],
        train_s=round(outcome.training.seconds, 1),
    )

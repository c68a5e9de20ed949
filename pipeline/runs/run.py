"""Run one task on one seed: from four examples per class to an evaluated adapter and a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from fourshot.engine.checkpoints.models import refuse_fake, resolve_model
from fourshot.engine.errors import InputError
from fourshot.engine.machine.links import check_links, link_to
from fourshot.pipeline.card import LINK
from fourshot.pipeline.cells.cell import SeedExamples
from fourshot.pipeline.cells.review import report_review
from fourshot.pipeline.cells.run_folder import SHOTS_FILE, RunFolder
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.forecasts.forecast import FORECAST_FILE, Forecast, record_actual_times
from fourshot.pipeline.loop.unlabelled import as_candidates
from fourshot.pipeline.report.write import write_report
from fourshot.pipeline.rows.unlabelled import load_unlabelled
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.plan import forecast_of_runs
from fourshot.pipeline.runs.stage_driver import LOG_FILE, StageDriver
from fourshot.pipeline.runs.stages import STAGE_NAMES, StageName
from fourshot.pipeline.runs.stages.ask import check_askable, questions, unanswered
from fourshot.pipeline.runs.stages.generate import check_candidates
from fourshot.pipeline.runs.stages.merge import merged_folder, synthetic_classifiers
from fourshot.pipeline.runs.summary import left_out, report_data, table
from fourshot.pipeline.settings.effects import check_confidence, tell_unused, unused_in_run
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.task_data import TaskData, cut_line, lost_shots
from fourshot.pipeline.work_folder import MANIFEST_FILE
from fourshot.training.jobs.cluster import check_cluster
from fourshot.training.jobs.jobs import HERE, Placement

RUN_METHODS = ("zero_shot", "icl", "lora", "fourshot")


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a run."""

    folder: str
    table: list[dict[str, Any]]  # one row per method, as in the report
    adapter_path: str = ""
    adapters: dict[str, str] = {}  # path of the adapter by method: also of those to compare with
    report_path: str = ""
    merged_path: str = ""
    left_out: dict[str, str] | UnsetType = UNSET  # method -> why it has no row
    ask_path: str = ""  # a table that a person has to fill in before the run continues
    forecast: Forecast | None = None  # of this call, with the time that it took


class RunRequest(msgspec.Struct, frozen=True):
    """Arguments of a run."""

    task: Task
    model: str | None
    settings: RunSettings
    folder: Path
    until: StageName = "report"  # the last stage; without a test file nothing is evaluated: an error if "evaluate"
    placement: Placement = HERE
    merge: bool = False  # also write base and adapter as one checkpoint, to ``folder``/merged/<adapter>
    unlabelled: Path | None = None  # a file of texts without labels, trained on with the labels of the annotators
    ask: int = 0  # once they are annotated, write a table of this many texts, and stop until a person has labelled it

    def reaches(self, stage: StageName) -> bool:
        """Whether ``stage`` is among the stages to run."""
        return STAGE_NAMES.index(stage) <= STAGE_NAMES.index(self.until)


def do_run(request: RunRequest, on_event: OnEvent = ignore, *, forecast: bool = False) -> RunSummary:
    """Run the stages, or continue where an earlier call was stopped. ``forecast``: first report what they will take.

    What a person changed in a table that `review` wrote is trained on, too. Raises InputError for invalid input,
    RunFolderError for a folder of another configuration, ShortRunError where a class stalls. Finished work stays on
    disk.
    """
    _check(request)
    task, path, ask, folder = request.task, request.folder, request.ask, RunFolder(request.folder)
    with folder.lock():
        if request.reaches("train"):
            check_links(path)
        experiment = _experiment(request, on_event)
        driver = StageDriver(path / LOG_FILE, on_event, request.placement)
        driver.add(task.name, experiment)
        report_review(folder, task, on_event)
        estimate = forecast_of_runs([experiment], request.until, on_event, request.placement) if forecast else None
        if ask and request.reaches("annotate"):
            driver.run("annotate")
            driver.do(lambda run: questions(run, ask))
        if waiting := unanswered(experiment, ask, on_event):
            return RunSummary(folder=str(path), table=[], ask_path=str(waiting))
        driver.run(request.until)
        if trained := experiment.result(experiment.cell("fourshot")):
            link_to(path / LINK, Path(trained.path))  # there may be others, trained before a review
        if request.merge:
            driver.do(synthetic_classifiers)
        if estimate:
            estimate = record_actual_times(estimate, driver.took)
            folder.write(FORECAST_FILE, estimate)
        if request.until == "report":
            write_report(report_data(experiment, f"{task.name}, seed {request.settings.seed}"), path)
        summary = _summary(request, experiment, estimate)
        if summary.table or summary.report_path:
            folder.write("summary.json", summary)
        return summary


def plan_run(request: RunRequest, on_event: OnEvent) -> Forecast | None:
    """Forecast what `do_run` would take, at this machine's present speed; None where nothing is left to do."""
    _check(request)
    return forecast_of_runs([_experiment(request, on_event)], request.until, on_event, request.placement, anew=True)


def _check(request: RunRequest) -> None:
    """Raise InputError for a request that cannot be met, as far as that is known without the task's files."""
    if request.until not in STAGE_NAMES:
        raise InputError(f"There is no stage {request.until!r}. The stages are {', '.join(STAGE_NAMES)}.")
    refuse_fake(request.model, "A run")
    check_confidence(request.settings)
    if request.ask:
        check_askable(request.ask, request.unlabelled is not None)
    if request.unlabelled and request.settings.annotate.annotator == "none":
        raise InputError("Texts without labels need annotators, and annotate.annotator is 'none'. Set another.")
    check_cluster(request.placement.ray, request.placement.gpus_per_engine)


def _experiment(request: RunRequest, on_event: OnEvent) -> Experiment:
    task, settings, unlabelled = request.task, request.settings, request.unlabelled
    tell_unused(settings, unused_in_run(settings, has_unlabelled=unlabelled is not None), "shots", on_event)
    on_event(Event(stage="shots", message="reading the data"))
    data = TaskData(task, on_event, settings, needs_test=request.until == "evaluate")
    if not data.test:
        data.tell(f"{data.why_no_test}, so this run trains a classifier but does not evaluate it")
    texts = _texts_of(unlabelled, task, settings, on_event)
    experiment = Experiment(
        data,
        resolve_model(request.model),
        settings,
        RUN_METHODS,
        [load_shots(data, settings, RunFolder(request.folder))],
        request.folder,
        flat=True,
        unlabelled=as_candidates(texts),
    )
    experiment.check_trainable()
    if request.reaches("generate"):
        check_candidates(experiment)
    return experiment


def _summary(request: RunRequest, experiment: Experiment, estimate: Forecast | None) -> RunSummary:
    folder, trained = request.folder, experiment.result(experiment.cell("fourshot"))
    return RunSummary(
        folder=str(folder),
        table=[msgspec.to_builtins(row) for row in table(experiment)],
        adapter_path=trained.path if trained else "",
        adapters={cell.name: result.path for cell in experiment.cells if (result := experiment.result(cell))},
        report_path=str(folder / "report.html") if request.until == "report" else "",
        merged_path=str(merged_folder(folder, trained.name)) if request.merge and trained else "",
        forecast=estimate,
        left_out=left_out(experiment) or UNSET,
    )


def load_shots(data: TaskData, settings: RunSettings, folder: RunFolder, *, goes_on: bool = True) -> SeedExamples:
    """Return the shots stored in the folder, else draw them, never a text of the test split (`TaskData.shots`).

    ``goes_on``: stored shots will be trained on, so compare them with the data of now (`TaskData.check_stored_shots`).
    """
    if folder.has(SHOTS_FILE):
        shots = folder.shots()
        if goes_on:
            data.check_stored_shots(shots)
    else:
        shots = data.shots(settings)
        data.tell_counts(shots)
        if folder.has(MANIFEST_FILE) and not folder.is_unused:
            data.tell(lost_shots(folder.path / SHOTS_FILE), notice=True)
    return SeedExamples(seed=settings.seed, shots=tuple(shots))


def _texts_of(file: Path | None, task: Task, settings: RunSettings, on_event: OnEvent) -> Sequence[tuple[int, str]]:
    """Return (line, text) of the unlabelled texts to annotate; none without a file."""
    if file is None:
        return ()
    options = settings.unlabelled
    unlabelled = load_unlabelled(file, task, options.most, options.text_column, settings.seed, options.encoding)
    on_event(Event(stage="shots", message=unlabelled.note))
    if line := cut_line("unlabelled", [text for _, text in unlabelled.texts], settings, task):
        on_event(Event(stage="shots", message=line, notice=True))
    return unlabelled.texts

"""Reproduce the paper's Table 1 for one task: compare methods over several draws of the shots."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from fourshot.engine.checkpoints.models import refuse_fake, resolve_model
from fourshot.engine.errors import InputError, RunFolderError
from fourshot.pipeline.cells.cell import SeedExamples
from fourshot.pipeline.cells.methods import METHODS, check_annotators
from fourshot.pipeline.cells.run_folder import ExperimentManifest, RunFolder
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.faults import counted
from fourshot.pipeline.forecasts.forecast import Forecast, finish_forecast
from fourshot.pipeline.provenance import describe_hardware, installed_versions, made_by, source_commit
from fourshot.pipeline.report.data import MethodRow
from fourshot.pipeline.report.write import write_report
from fourshot.pipeline.runs.compared_settings import unused_in_comparison
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.plan import forecast_of_runs
from fourshot.pipeline.runs.stage_driver import LOG_FILE, StageDriver
from fourshot.pipeline.runs.stages.generate import check_candidates
from fourshot.pipeline.runs.summary import left_out, report_data, table
from fourshot.pipeline.scores import Scores
from fourshot.pipeline.settings.effects import tell_unused
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.tasks.shots import draw_shots
from fourshot.pipeline.work_folder import MANIFEST_FILE
from fourshot.training.jobs.cluster import check_cluster
from fourshot.training.jobs.jobs import HERE, Placement

SCHEMA = 1
RESULT_FILE = "comparison.json"
# Names of the entries that a comparison's folder may have before its result is written.
UNFINISHED = re.compile(r"seed\d+|scores|adapters|encoders|averages|log\.txt|forecast\.json|layout\.json|\..*")
DEFAULT_METHODS = ("zero_shot", "icl", "lora", "fourshot", "lora25")


class ComparisonManifest(ExperimentManifest, frozen=True, kw_only=True):
    """Identifies the comparison that a folder belongs to."""

    methods: tuple[str, ...]  # of the last call; another call may add some
    seeds: tuple[int, ...]  # likewise

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in super().identity().items() if name not in ("methods", "seeds")}


class SeedResult(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one seed, as stored in the result file."""

    method: str
    seed: int
    scores: Scores
    real_examples: int
    synthetic_examples: int
    train_s: float = 0.0
    train_steps: int = 0
    adapter: str = ""  # its folder, below that of the comparison


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the result file, ``comparison.json``."""

    schema: int = SCHEMA
    task: str
    model_name: str
    model_revision: str
    seeds: list[int]
    rows: list[MethodRow]
    results: list[SeedResult]
    settings: dict[str, RunSettings]  # by method, with the first seed
    versions: dict[str, str]
    hardware: dict[str, Any] = {}
    commit: str = ""
    left_out: dict[str, str] | UnsetType = UNSET  # method -> why it has no row


class ComparisonRequest(msgspec.Struct, frozen=True):
    """Arguments of a comparison."""

    task: Task
    model: str | None
    settings: RunSettings
    methods: Sequence[str]
    seeds: Sequence[int]
    folder: Path
    placement: Placement = HERE


def do_comparison(request: ComparisonRequest, on_event: OnEvent = ignore, *, forecast: bool = False) -> Comparison:
    """Evaluate the methods on every seed, each with its own shots. Resumes; writes comparison.json and the report.

    ``forecast``: first report what it will take. Raises InputError for methods, seeds or data that cannot be used,
    RunFolderError for a folder of other work.
    """
    _check(request)
    task, path, folder = request.task, request.folder, RunFolder(request.folder)
    with folder.lock(), ExitStack() as locks:
        experiment = _experiment(request, on_event)
        manifest = _check_claim(request, experiment)
        for writer in experiment.writers:  # `review` and `run` can be called on these folders, too
            locks.enter_context(writer.folder.lock())
        folder.write(MANIFEST_FILE, manifest)
        driver = StageDriver(path / LOG_FILE, on_event, request.placement)
        driver.add(task.name, experiment)
        estimate = forecast_of_runs([experiment], "evaluate", on_event, request.placement) if forecast else None
        driver.run("evaluate")
        if estimate:
            finish_forecast(estimate, driver.took, folder, on_event)
        result = _result(experiment)
        folder.write(RESULT_FILE, result)
        write_report(report_data(experiment, f"{task.name}: {counted(len(request.seeds), 'draw')} of shots"), path)
        return result


def plan_comparison(request: ComparisonRequest, on_event: OnEvent) -> Forecast | None:
    """Forecast what `do_comparison` would take, at this machine's present speed; None where nothing is left to do."""
    _check(request)
    experiment = _experiment(request, on_event)
    _check_claim(request, experiment)
    return forecast_of_runs([experiment], "evaluate", on_event, request.placement, anew=True)


def _check(request: ComparisonRequest) -> None:
    methods, seeds, seed = request.methods, request.seeds, request.settings.seed
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise InputError(f"Unknown methods {unknown}. The methods are {', '.join(METHODS)}.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"Seeds are {list(seeds)}; allowed are one or more different numbers.")
    if seed != RunSettings().seed:
        raise InputError(
            f"a comparison takes its seeds from --seeds and ignores the setting seed = {seed}. Leave the setting out; "
            f"for this seed alone, give '--seeds {seed},'."
        )
    check_annotators(methods, request.settings)
    refuse_fake(request.model, "A comparison")
    check_cluster(request.placement.ray, request.placement.gpus_per_engine)


def _experiment(request: ComparisonRequest, on_event: OnEvent) -> Experiment:
    settings, methods = request.settings, request.methods
    tell_unused(settings, unused_in_comparison(settings, methods), "shots", on_event)
    on_event(Event(stage="shots", message="reading the data"))
    data = TaskData(request.task, on_event, settings)
    examples = [_examples(data, settings, seed, methods) for seed in request.seeds]
    experiment = Experiment(data, resolve_model(request.model), settings, methods, examples, request.folder)
    experiment.check_trainable()
    check_candidates(experiment)
    return experiment


def _check_claim(request: ComparisonRequest, experiment: Experiment) -> ComparisonManifest:
    """Return the manifest to write into the folder. Raises RunFolderError where the folder holds other work."""
    folder = RunFolder(request.folder)
    manifest = ComparisonManifest(
        task=experiment.task,
        settings=experiment.settings,
        model_name=experiment.model.name,
        model_revision=experiment.model.revision,
        versions=made_by(),
        methods=tuple(request.methods),
        seeds=tuple(examples.seed for examples in experiment.seeds),
    )
    if folder.has(MANIFEST_FILE) or not _is_of_earlier_version(folder, manifest):
        folder.check_claim(manifest)
    return manifest


def _is_of_earlier_version(folder: RunFolder, manifest: ComparisonManifest) -> bool:
    """Whether an earlier version, which wrote no manifest of comparisons, made this comparison in the folder."""
    if not folder.has(RESULT_FILE):
        names = [entry.name for entry in folder.path.iterdir()] if folder.path.is_dir() else []
        return all(map(UNFINISHED.fullmatch, names)) and any(name.startswith(("seed", "scores")) for name in names)
    try:
        result = folder.read(RESULT_FILE, Comparison)
    except RunFolderError:  # not the result of a comparison
        return False
    return (result.task, result.model_revision) == (manifest.task.name, manifest.model_revision)


def _examples(data: TaskData, settings: RunSettings, seed: int, methods: Sequence[str]) -> SeedExamples:
    """Draw the shots of a seed, and the real examples of the method that needs most, which may include shots."""
    shots = data.shots(settings, seed)
    most = max(methods, key=lambda method: METHODS[method].real_per_class)
    more = _real_examples(data, settings, seed, most) if METHODS[most].real_per_class else []
    return SeedExamples(seed=seed, shots=tuple(shots), more=tuple(more))


def _real_examples(data: TaskData, settings: RunSettings, seed: int, method: str) -> list[Example]:
    """Draw the examples of a method that is trained on more real texts. Raises InputError where there are too few."""
    most, names = METHODS[method].real_per_class, data.task.label_names
    try:
        return draw_shots(data.train, names, most, seed, settings.allow_fewer_shots)
    except InputError as error:
        counts = Counter(example.label for example in data.train)
        fewest = min(names, key=lambda name: counts[name])
        raise InputError(
            f"the method {method} ({METHODS[method].display_name}) learns {most} labelled texts per class, and "
            f"{fewest!r} has {counts[fewest]}. Leave the method out (--methods zero_shot,icl,lora,fourshot), or allow "
            "fewer (--allow-fewer-shots)."
        ) from error


def _result(experiment: Experiment) -> Comparison:
    results = [
        SeedResult(
            method=outcome.method,
            seed=outcome.seed,
            scores=outcome.evaluation.scores,
            real_examples=outcome.real_examples,
            synthetic_examples=outcome.synthetic_examples,
            train_s=outcome.training.seconds if outcome.training else 0.0,
            train_steps=outcome.training.steps if outcome.training else 0,
            adapter=os.path.relpath(outcome.training.path, experiment.root.resolve()) if outcome.training else "",
        )
        for outcome in experiment.outcomes()
        if outcome.evaluation is not None
    ]
    return Comparison(
        task=experiment.task.name,
        model_name=experiment.model.name,
        model_revision=experiment.model.revision,
        seeds=[examples.seed for examples in experiment.seeds],  # in the order of ``seed_accuracies``
        rows=table(experiment),
        results=results,
        settings={cell.name: cell.settings for cell in experiment.first_cells},
        versions=installed_versions(),
        hardware=describe_hardware(),
        commit=source_commit(),
        left_out=left_out(experiment) or UNSET,
    )

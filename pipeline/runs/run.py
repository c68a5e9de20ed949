"""The main job: one task, one seed, from four examples per class to a measured adapter and a report."""

from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.engine.models import ResolvedModel, resolve_model
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.runs.experiment import STAGES, Experiment, Stage
from fourshot.pipeline.runs.run_folder import RunFolder
from fourshot.pipeline.runs.summary import report_data, table
from fourshot.pipeline.runs.trainings import check_cluster
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.shots import draw_shots, take_shots
from fourshot.pipeline.tasks.tables import drop_overlap, load_split
from fourshot.pipeline.tasks.types import Example, Task
from fourshot.training.jobs.jobs import HERE, Placement

RUN_METHODS = ("zero_shot", "icl", "lora", "fourshot")


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to."""

    folder: str
    table: list[dict[str, Any]]  # one row per method, as in the report
    adapter_path: str = ""
    report_path: str = ""
    merged_path: str = ""


def run_task(
    task: Task,
    model: str | None,
    settings: RunSettings,
    folder: Path,
    on_event: OnEvent = ignore,
    until: Stage | None = None,
    placement: Placement = HERE,
    merge: bool = False,
) -> RunSummary:
    """Run ``task`` in ``folder``, or go on where an earlier call was stopped; ``until`` names the last stage to do.

    ``merge``: write base and adapter as one checkpoint, too, to ``folder``/merged/<adapter>.

    Raises InputError for what the user gave, RunFolderError for a folder of another configuration, ShortRunError where
    a class stalls; what was finished stays on disk.
    """
    last = until or "report"
    if last not in STAGES:
        raise InputError(f"There is no stage {last!r}. The stages are {', '.join(STAGES)}.")
    check_cluster(placement)
    run_folder = RunFolder(folder)
    with run_folder.lock():
        on_event(Event(stage="shots", message="reading the data"))
        shots = load_shots(task, settings, run_folder)
        experiment = Experiment(
            task,
            resolve_model(model),
            settings,
            RUN_METHODS,
            {settings.seed: shots},
            {},
            folder,
            on_event,
            flat=True,
            placement=placement,
        )
        experiment.run(last if last != "report" else "evaluate")
        trained = experiment.adapter("fourshot", settings.seed)
        merged = experiment.merge("fourshot", settings.seed) if merge and trained else ""
        rows = table(experiment)
        report = ""
        if last == "report":
            from fourshot.pipeline.report import write_report

            html, _ = write_report(report_data(experiment, f"{task.name}, seed {settings.seed}"), folder)
            report = str(html)
        summary = RunSummary(
            folder=str(folder),
            table=[msgspec.to_builtins(row) for row in rows],
            adapter_path=trained.path if trained else "",
            report_path=report,
            merged_path=merged,
        )
        if rows:
            run_folder.write("summary.json", summary)
        return summary


def prepare(task: Task, settings: RunSettings, root: Path, store: Path, model: ResolvedModel) -> Experiment:
    """The run of ``task`` in ``root`` for its adapter alone: shots drawn, nothing done yet. Raises as `run_task`."""
    shots = load_shots(task, settings, RunFolder(root))
    by_seed = {settings.seed: shots}
    return Experiment(task, model, settings, ["fourshot"], by_seed, {}, root, ignore, flat=True, store=store)


def load_shots(task: Task, settings: RunSettings, folder: RunFolder) -> list[Example]:
    """The shots that the folder has, else those drawn from the train split, never a text of the test split."""
    if folder.has("shots.json"):
        return folder.shots()
    return take_shots(task, settings.k, settings.seed, settings.allow_fewer_shots, train_pool(task))


def train_pool(task: Task) -> list[Example]:
    """The train split without texts that are in the test split too."""
    test = load_split(task, "test").examples
    return list(drop_overlap(load_split(task, "train"), [example.text for example in test]).examples)


def more_real(task: Task, per_class: int, seed: int) -> list[Example]:
    """``per_class`` real examples. They contain the shots of the same seed where those come from the train split."""
    return draw_shots(train_pool(task), task.label_names, per_class, seed)

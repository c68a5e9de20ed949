"""The public functions of fourshot. `fourshot` imports them on first use, since this module loads the packages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourshot.engine.errors import InputError
from fourshot.pipeline.arguments import checked
from fourshot.pipeline.corpus.run import CorpusRequest, do_corpus
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.corpus.summary import CorpusSummary
from fourshot.pipeline.events import OnEvent, ignore
from fourshot.pipeline.runs import compare as comparing
from fourshot.pipeline.runs.many import TaskOutcome, TrainingsRequest, do_trainings
from fourshot.pipeline.runs.run import RunRequest, RunSummary, do_run
from fourshot.pipeline.runs.stages import StageName
from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.generation import GenerationTask
from fourshot.pipeline.tasks.task_file import given_task, with_labels
from fourshot.pipeline.tasks.task_paths import load_tasks
from fourshot.setting_values import nested, plain, with_values
from fourshot.training.jobs.jobs import Placement


def default_folder(task: str, preset: str = "default", seed: int = 0) -> Path:
    """Return the default folder of a task's run; with "tasks" as the name, that of trainings of many tasks."""
    return Path("runs") / task / f"{preset}-seed{seed}"


@checked
def settings(values: Mapping[str, Any] | None = None, preset: str = "default") -> RunSettings:
    """Return the settings of a preset, changed by ``values``: ``{"generate.per_class": 50, "train.r": 16}``.

    Keys are the names in docs/settings.md; a group such as "train" may be a dictionary, too. Raises `InputError` for an
    unknown preset or name, and for an invalid value.
    """
    if preset not in PRESETS:
        raise InputError(f"There is no preset {preset!r}. The presets are {', '.join(PRESETS)}.")
    chosen = PRESETS[preset]
    for name, value in (values or {}).items():
        chosen = with_values(chosen, nested(str(name), plain(value)), "settings")
    return chosen


@checked
def run(
    task: Task | str | Path,
    *,
    model: str | None = None,
    settings: RunSettings | None = None,
    folder: str | Path | None = None,
    on_event: OnEvent | None = None,
    until: StageName | None = None,
    ray: str = "",
    gpus_per_job: int = 1,
    gpus_per_engine: int = 1,
    train_at_once: int = 0,
    forecast: bool = False,
    merge: bool = False,
    unlabelled: str | Path | None = None,
    ask: int = 0,
) -> RunSummary:
    """Run from shots to an evaluated classifier. If the folder has part of the same run, it is continued.

    ``task`` is a `Task`, a name such as "sst2", or a task file. ``model`` is a Hugging Face id, a folder or a
    GGUF file, None the embedded one. ``folder`` defaults to runs/<task>/default-seed<seed>. ``until`` stops
    after a stage. ``ray`` is "local", "auto" or the address of a Ray cluster that generates, annotates and trains;
    empty means this machine, with ``train_at_once`` trainings side by side, 0 for as many as fit. ``gpus_per_job`` GPUs
    share each training, ``gpus_per_engine`` the weights of each engine. ``forecast`` first reports what the run will
    take on this machine; the summary compares it with what it took. ``merge`` also writes base and adapter as one
    checkpoint. ``unlabelled`` is a file of texts without labels, trained on with the annotators' labels. With ``ask``,
    the call returns once they are annotated, and the summary's ``ask_path`` is a table of this many texts for a person
    to label before the call is repeated. Raises `InputError` for bad input, `ShortRunError` where a class stalls,
    `RunFolderError` for another run's folder.
    """
    task = with_labels(given_task(task))
    settings = settings or RunSettings()
    folder = Path(folder or default_folder(task.name, seed=settings.seed))
    placement = Placement(ray=ray, gpus_per_job=gpus_per_job, gpus_per_engine=gpus_per_engine, at_once=train_at_once)
    texts = Path(unlabelled) if unlabelled else None
    request = RunRequest(task, model, settings, folder, until or "report", placement, merge, texts, ask)
    return do_run(request, on_event or ignore, forecast=forecast)


@checked
def compare(
    task: Task | str | Path,
    methods: Sequence[str] = (),
    *,
    seeds: Sequence[int] = (0,),
    model: str | None = None,
    settings: RunSettings | None = None,
    folder: str | Path | None = None,
    on_event: OnEvent | None = None,
    ray: str = "",
    gpus_per_job: int = 1,
    gpus_per_engine: int = 1,
    train_at_once: int = 0,
    forecast: bool = False,
) -> comparing.Comparison:
    """Evaluate ``methods`` on one task, each seed with its own shots.

    ``methods`` are keys of `METHODS`; an empty sequence means `DEFAULT_METHODS`. The other arguments are those
    of `run`; ``folder`` defaults to runs/<task>/compare.
    """
    task = with_labels(given_task(task))
    request = comparing.ComparisonRequest(
        task,
        model,
        settings or RunSettings(),
        methods or comparing.DEFAULT_METHODS,
        seeds,
        Path(folder or f"runs/{task.name}/compare"),
        Placement(ray=ray, gpus_per_job=gpus_per_job, gpus_per_engine=gpus_per_engine, at_once=train_at_once),
    )
    return comparing.do_comparison(request, on_event or ignore, forecast=forecast)


@checked
def train(
    tasks: Sequence[Task | str | Path],
    *,
    model: str | None = None,
    settings: RunSettings | None = None,
    folder: str | Path | None = None,
    on_event: OnEvent | None = None,
    ray: str = "",
    gpus_per_job: int = 1,
    gpus_per_engine: int = 1,
    train_at_once: int = 0,
    forecast: bool = False,
) -> list[TaskOutcome]:
    """Train one adapter for each of many tasks: `Task`s, names, task files, or folders of them. Evaluates nothing.

    Returns one outcome per task in the order given, also for tasks that fail. A task that is named twice is trained
    once. Finished ones are kept, so the same call continues where one was stopped. The other arguments are those of
    `run`; ``folder`` defaults to runs/tasks/default-seed<seed>. Raises `InputError` where a path has no task, or two
    tasks have the same name.
    """
    settings = settings or RunSettings()
    folder = Path(folder or default_folder("tasks", seed=settings.seed))
    placement = Placement(ray=ray, gpus_per_job=gpus_per_job, gpus_per_engine=gpus_per_engine, at_once=train_at_once)
    request = TrainingsRequest(load_tasks(tasks), model, settings, folder, placement)
    return do_trainings(request, on_event or ignore, forecast=forecast)


@checked
def corpus(
    tasks: Sequence[Task | str | Path],
    folder: str | Path,
    *,
    data: str | Path | None = None,
    model: str | None = None,
    settings: RunSettings | None = None,
    corpus_settings: CorpusSettings | None = None,
    on_event: OnEvent | None = None,
    forecast: bool = False,
) -> CorpusSummary:
    """Generate and filter many texts for each class of many tasks, in a ``folder`` that `datasets` can load.

    ``tasks`` as for `train`. ``data``: a folder with one folder per task, named after it, in place of the tasks' own
    data. ``settings`` default to ``PRESETS["corpus"]``; ``corpus_settings``: how the texts are written to disk, and
    where engines run. ``forecast`` as for `run`. The same call continues where one was stopped; shards that were
    damaged meanwhile are made again.
    Raises `InputError` for bad input, `ShortRunError` where a class stalls,
    `RunFolderError` for a folder that holds something else.
    """
    chosen = settings or PRESETS["corpus"], corpus_settings or CorpusSettings()
    request = CorpusRequest(load_tasks(tasks, data), model, Path(folder), *chosen)
    return do_corpus(request, on_event or ignore, forecast=forecast)


def default_student_folder(task: Task | GenerationTask) -> Path:
    """Return the default folder of a task's distillation."""
    return Path("runs") / task.name / "student"

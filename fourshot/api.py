"""The public functions of fourshot. `fourshot` hands them out on first use, since this module loads the packages."""

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
    """Where the run of a task lies unless the user names a folder; "tasks" stands for the trainings of many tasks."""
    return Path("runs") / task / f"{preset}-seed{seed}"


@checked
def settings(values: Mapping[str, Any] | None = None, preset: str = "default") -> RunSettings:
    """The settings of a preset, with ``values`` in place of its own: ``{"generate.per_class": 50, "train.r": 16}``.

    Keys are the names in docs/settings.md; a part such as "train" may be a dictionary, too. Raises `InputError` for a
    preset, a name or a value that is none.
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
    """From shots to a measured classifier; a folder with a part of the same run in it is continued.

    ``task`` is a `Task`, a name such as "sst2", or a task file. ``model`` is a Hugging Face id, a folder or a
    GGUF file, None the embedded one. ``folder`` defaults to runs/<task>/default-seed<seed>. ``until`` stops
    after a stage. ``ray`` is "local", "auto" or the address of the Ray cluster that trains; empty trains in this
    process tree, ``train_at_once`` side by side, 0 for as many as fit. ``gpus_per_job`` GPUs share each training,
    ``gpus_per_engine`` the weights of what writes and reads. ``forecast`` first tells what the run will take on this
    machine; the summary has it beside what it took. ``merge`` writes base and adapter as one checkpoint, too.
    ``unlabelled`` is a file of texts without labels, learnt as the annotators read them; with ``ask`` the call returns
    when they are annotated, and ``ask_path`` of the summary is a table of so many to be labelled before it is repeated.
    Raises `InputError` for bad input, `ShortRunError` where a class stalls, `RunFolderError` for another run's folder.
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
    """Measure ``methods`` on one task, each seed with shots of its own.

    ``methods`` are keys of `METHODS`; none means `DEFAULT_METHODS`. The other arguments are those
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
    """One adapter for each of many tasks: `Task`s, names, task files, or folders of them. Nothing is measured.

    A task that fails is an outcome like the others, in the order given; one that is named twice is trained once.
    Finished ones are kept, so the same call goes on where one was stopped. The other arguments are those of `run`;
    ``folder`` defaults to runs/tasks/default-seed<seed>. Raises `InputError` where a path stands for no task, or two
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
    """Many texts for each class of many tasks, generated and filtered, in a ``folder`` that `datasets` can load.

    ``tasks`` as for `train`. ``data``: a folder for each task, named as it, in place of its own data. ``settings``
    default to ``PRESETS["corpus"]``; ``corpus_settings`` say how it is written and where engines run. ``forecast`` as
    for `run`. The same call goes on where one was stopped; shards that were damaged meanwhile are made again.
    Raises `InputError` for bad input, `ShortRunError` where a class stalls,
    `RunFolderError` for a folder that holds something else.
    """
    chosen = settings or PRESETS["corpus"], corpus_settings or CorpusSettings()
    request = CorpusRequest(load_tasks(tasks, data), model, Path(folder), *chosen)
    return do_corpus(request, on_event or ignore, forecast=forecast)


def default_student_folder(task: Task | GenerationTask) -> Path:
    """Where a distillation of a task lies unless the user names a folder."""
    return Path("runs") / task.name / "student"

"""The front door: the `fourshot` command and the public Python API. It composes the rooms and computes nothing.

    import fourshot

    summary = fourshot.run("support_tickets")
    with fourshot.Classifier(summary.adapter_path) as classifier:
        print(classifier.predict(["I was charged twice"]))

Importing it loads the standard library only; each name below loads its room on first use.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourshot.engine.errors import (
        AdapterError,
        FourshotError,
        InputError,
        ModelNotFoundError,
        RequestError,
        RunFolderError,
        ServiceError,
        ShortRunError,
        TaskFileError,
    )
    from fourshot.pipeline.corpus.settings import CorpusSettings
    from fourshot.pipeline.corpus.summary import CorpusSummary
    from fourshot.pipeline.events import Event, OnEvent
    from fourshot.pipeline.runs.compare import Comparison
    from fourshot.pipeline.runs.experiment import Stage
    from fourshot.pipeline.runs.many import TaskOutcome
    from fourshot.pipeline.runs.run import RunSummary
    from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings
    from fourshot.pipeline.tasks.task_file import load_task
    from fourshot.pipeline.tasks.types import Example, Label, Task
    from fourshot.serving.clients.client import AsyncClient, Client
    from fourshot.serving.clients.local import LocalClassifier as Classifier
    from fourshot.serving.clients.local import Prediction

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "AdapterError",
    "AsyncClient",
    "Classifier",
    "Client",
    "Comparison",
    "CorpusSettings",
    "CorpusSummary",
    "Event",
    "Example",
    "FourshotError",
    "InputError",
    "Label",
    "ModelNotFoundError",
    "Prediction",
    "RequestError",
    "RunFolderError",
    "RunSettings",
    "RunSummary",
    "ServiceError",
    "ShortRunError",
    "Task",
    "TaskFileError",
    "TaskOutcome",
    "compare",
    "corpus",
    "load_task",
    "run",
    "train",
]

_HOMES = {
    **dict.fromkeys(("Example", "Label", "Task"), "fourshot.pipeline.tasks.types"),
    **dict.fromkeys(("PRESETS", "RunSettings"), "fourshot.pipeline.synthesis.settings"),
    **dict.fromkeys(("Classifier", "Prediction"), "fourshot.serving.clients.local"),
    **dict.fromkeys(("AsyncClient", "Client"), "fourshot.serving.clients.client"),
    "Comparison": "fourshot.pipeline.runs.compare",
    "CorpusSettings": "fourshot.pipeline.corpus.settings",
    "CorpusSummary": "fourshot.pipeline.corpus.summary",
    "Event": "fourshot.pipeline.events",
    "RunSummary": "fourshot.pipeline.runs.run",
    "TaskOutcome": "fourshot.pipeline.runs.many",
    "load_task": "fourshot.pipeline.tasks.task_file",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fourshot' has no attribute {name!r}")
    home = importlib.import_module(_HOMES.get(name, "fourshot.engine.errors"))
    return getattr(home, "LocalClassifier" if name == "Classifier" else name)


def run(
    task: "Task | str | Path",
    *,
    model: str | None = None,
    settings: "RunSettings | None" = None,
    folder: str | Path | None = None,
    on_event: "OnEvent | None" = None,
    until: "Stage | None" = None,
    ray: str = "",
    gpus_per_job: int = 1,
    merge: bool = False,
) -> "RunSummary":
    """From shots to a measured classifier; a folder with a part of the same run in it is continued.

    ``task`` is a `Task`, a name such as "sst2", or a task file. ``model`` is a Hugging Face id or a folder, None the
    embedded one. ``folder`` defaults to runs/<task>/default-seed<seed>. ``until`` stops after a stage.
    ``ray`` is "local", "auto" or the address of the Ray cluster that trains; empty trains in this process tree.
    ``gpus_per_job`` GPUs share each training. ``merge`` writes base and adapter as one checkpoint, too. Raises
    `InputError` for bad input, `ShortRunError` where a class stalls, `RunFolderError` for another run's folder.
    """
    from fourshot.cli.pipeline_parsers import run_folder
    from fourshot.pipeline.events import ignore
    from fourshot.pipeline.runs.run import run_task
    from fourshot.pipeline.synthesis.settings import RunSettings
    from fourshot.pipeline.tasks.task_file import load_task
    from fourshot.training.jobs.jobs import Placement

    task = load_task(task) if isinstance(task, str | Path) else task
    settings = settings or RunSettings()
    folder = Path(folder or run_folder(task.name, "default", settings.seed))
    return run_task(
        task, model, settings, folder, on_event or ignore, until, Placement(ray=ray, gpus_per_job=gpus_per_job), merge
    )


def compare(
    task: "Task | str | Path",
    methods: Sequence[str] = (),
    *,
    seeds: Sequence[int] = (0,),
    model: str | None = None,
    settings: "RunSettings | None" = None,
    folder: str | Path | None = None,
    on_event: "OnEvent | None" = None,
    ray: str = "",
    gpus_per_job: int = 1,
) -> "Comparison":
    """Measure ``methods`` on one task, each seed with shots of its own.

    ``methods`` are keys of `METHODS`; none means `DEFAULT_METHODS`. The other arguments are those
    of `run`; ``folder`` defaults to runs/<task>/compare.
    """
    from fourshot.pipeline.events import ignore
    from fourshot.pipeline.runs import compare as comparing
    from fourshot.pipeline.synthesis.settings import RunSettings
    from fourshot.pipeline.tasks.task_file import load_task
    from fourshot.training.jobs.jobs import Placement

    task = load_task(task) if isinstance(task, str | Path) else task
    folder = Path(folder or f"runs/{task.name}/compare")
    methods = methods or comparing.DEFAULT_METHODS
    placement = Placement(ray=ray, gpus_per_job=gpus_per_job)
    return comparing.compare(
        task, model, settings or RunSettings(), methods, seeds, folder, on_event or ignore, placement
    )


def train(
    tasks: Sequence[str | Path],
    *,
    model: str | None = None,
    settings: "RunSettings | None" = None,
    folder: str | Path | None = None,
    on_event: "OnEvent | None" = None,
    ray: str = "",
    gpus_per_job: int = 1,
) -> "list[TaskOutcome]":
    """One adapter for each of many tasks: names, task files, or folders of them. Nothing is measured.

    A task that fails is an outcome like the others, in the order given; finished ones are kept, so the same call goes
    on where one was stopped. The other arguments are those of `run`; ``folder`` defaults to
    runs/tasks/default-seed<seed>. Raises `InputError` where a path stands for no task, or two tasks have the same name.
    """
    from fourshot.cli.pipeline_parsers import tasks_folder
    from fourshot.pipeline.events import ignore
    from fourshot.pipeline.runs.many import load_tasks, train_tasks
    from fourshot.pipeline.synthesis.settings import RunSettings
    from fourshot.training.jobs.jobs import Placement

    settings = settings or RunSettings()
    folder = Path(folder or tasks_folder("default", settings.seed))
    placement = Placement(ray=ray, gpus_per_job=gpus_per_job)
    return train_tasks(load_tasks(tasks), model, settings, folder, on_event or ignore, placement)


def corpus(
    tasks: Sequence[str | Path],
    folder: str | Path,
    *,
    data: str | Path | None = None,
    model: str | None = None,
    settings: "RunSettings | None" = None,
    corpus_settings: "CorpusSettings | None" = None,
    on_event: "OnEvent | None" = None,
) -> "CorpusSummary":
    """Many texts for each class of many tasks, generated and filtered, in a ``folder`` that `datasets` can load.

    ``tasks`` as for `train`. ``data``: a folder for each task, named as it, in place of its own data. ``settings``
    default to ``PRESETS["corpus"]``; ``corpus_settings`` say how it is written and where engines run. The same call
    goes on where one was stopped. Raises `InputError` for bad input, `ShortRunError` where a class stalls,
    `RunFolderError` for a folder that holds something else.
    """
    from fourshot.pipeline.corpus.run import make_corpus
    from fourshot.pipeline.corpus.settings import CorpusSettings
    from fourshot.pipeline.events import ignore
    from fourshot.pipeline.runs.many import load_tasks
    from fourshot.pipeline.synthesis.settings import PRESETS

    return make_corpus(
        load_tasks(tasks, data),
        model,
        Path(folder),
        settings or PRESETS["corpus"],
        corpus_settings or CorpusSettings(),
        on_event or ignore,
    )

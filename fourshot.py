"""The front door: the `fourshot` command and the public Python API. It composes the rooms and computes nothing.

    import fourshot

    summary = fourshot.run("support_tickets")
    with fourshot.Classifier(summary.adapter_path) as classifier:
        print(classifier.predict(["I was charged twice"]))

Importing it loads the standard library only; each name below loads its room on first use.
"""

import argparse
import errno
import importlib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.errors import (
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
    from pipeline.compare import Comparison
    from pipeline.console import Terminal
    from pipeline.corpus.settings import CorpusSettings
    from pipeline.corpus.summary import CorpusSummary
    from pipeline.events import Event, OnEvent
    from pipeline.experiment import Stage
    from pipeline.many import TaskOutcome
    from pipeline.nouns import Example, Label, Task
    from pipeline.run import RunSummary
    from pipeline.settings import PRESETS, RunSettings
    from pipeline.taskfile import load_task
    from serving.client import AsyncClient, Client
    from serving.local import LocalClassifier as Classifier
    from serving.local import Prediction

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
    **dict.fromkeys(("Example", "Label", "Task"), "pipeline.nouns"),
    **dict.fromkeys(("PRESETS", "RunSettings"), "pipeline.settings"),
    **dict.fromkeys(("Classifier", "Prediction"), "serving.local"),
    **dict.fromkeys(("AsyncClient", "Client"), "serving.client"),
    "Comparison": "pipeline.compare",
    "CorpusSettings": "pipeline.corpus.settings",
    "CorpusSummary": "pipeline.corpus.summary",
    "Event": "pipeline.events",
    "RunSummary": "pipeline.run",
    "TaskOutcome": "pipeline.many",
    "load_task": "pipeline.taskfile",
}

DEMO_TEXT = "I paid for the same photo book twice, can I have my money back?"
DEBUG = "FOURSHOT_DEBUG"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fourshot' has no attribute {name!r}")
    home = importlib.import_module(_HOMES.get(name, "engine.errors"))
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
    from pipeline.commandline import run_folder
    from pipeline.events import ignore
    from pipeline.run import run_task
    from pipeline.settings import RunSettings
    from pipeline.taskfile import load_task
    from training.jobs import Placement

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

    ``methods`` are keys of `pipeline.compare.METHODS`; none means its `DEFAULT_METHODS`. The other arguments are those
    of `run`; ``folder`` defaults to runs/<task>/compare.
    """
    from pipeline import compare as comparing
    from pipeline.events import ignore
    from pipeline.settings import RunSettings
    from pipeline.taskfile import load_task
    from training.jobs import Placement

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
    from pipeline.commandline import tasks_folder
    from pipeline.events import ignore
    from pipeline.many import load_tasks, train_tasks
    from pipeline.settings import RunSettings
    from training.jobs import Placement

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
    from pipeline.corpus.run import make_corpus
    from pipeline.corpus.settings import CorpusSettings
    from pipeline.events import ignore
    from pipeline.many import load_tasks
    from pipeline.settings import PRESETS

    return make_corpus(
        load_tasks(tasks, data),
        model,
        Path(folder),
        settings or PRESETS["corpus"],
        corpus_settings or CorpusSettings(),
        on_event or ignore,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (those of the process where None). Returns the exit code.

    0 done, 1 failed, 2 bad input, 130 stopped with Ctrl-C. Raises SystemExit where argparse does: help, usage errors.
    """
    from pipeline.commandline import read_command
    from serving.commandline import add_commands

    options = read_command(arguments, __version__, add_commands)
    from pipeline.console import Terminal

    with Terminal(json=options.json, quiet=options.quiet) as terminal:
        try:
            code = _command(options.command)(options, terminal)
            sys.stdout.flush()
        except BrokenPipeError:
            _abandon_output()  # whoever read it has gone
            return 1
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get(DEBUG, "0") not in ("", "0"):
                raise
            code, message = _explain(error)
            _abandon_output()
            print(f"fourshot: {message}", file=sys.stderr)
            terminal.result("error", {"error": type(error).__name__, "message": message, "exit_code": code})
    return code


def _command(name: str) -> "Callable[[argparse.Namespace, Terminal], int]":
    if name in _COMMANDS:
        return _COMMANDS[name]
    from pipeline import commands

    if name in commands.COMMANDS:
        return commands.COMMANDS[name]
    from serving.commands import COMMANDS

    return COMMANDS[name]


def _abandon_output() -> None:
    """Drop what cannot be written to standard output: Python would try again at exit, and fail with a trace."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an error that reached the edge of the process."""
    from engine.errors import FourshotError

    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped; run the same command again to go on."
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    full = full or "No space left on device" in str(error)  # libraries wrap it: their own type, the cause as text
    # Errors of ours that name it say it in one line; a stage that died of it shows its log, which is no help here.
    if isinstance(error, FourshotError) and not (full and "\n" in str(error)):
        return error.exit_code, str(error)
    if full:
        place = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        return 1, (
            f"the disk is full{place}. What was finished is kept. Make room and run the same command again, or name "
            "a folder on another disk with --out."
        )
    if isinstance(error, OSError):
        return 1, f"{error}. Set {DEBUG}=1 to see where."
    return 1, (
        f"unexpected {type(error).__name__}: {error}\nThis is a fault in fourshot, not in what you gave. "
        f"Set {DEBUG}=1 and run the command again to see where."
    )


def _demo(options: argparse.Namespace, terminal: "Terminal") -> int:
    from pipeline.commandline import DEMO_FOLDER, DEMO_TASK
    from pipeline.commands import program
    from serving.local import LocalClassifier

    folder = Path(options.out or DEMO_FOLDER)
    with terminal.progress() as on_event:
        summary = run(DEMO_TASK, model=options.model, folder=folder, on_event=on_event)
    with terminal.hushed(), LocalClassifier(summary.adapter_path, options.model, kind="transformers") as classifier:
        (answer,) = classifier.predict([DEMO_TEXT])
    terminal.result("result", {"run": summary, "text": DEMO_TEXT, "answer": answer})
    terminal.scores(summary.table)
    terminal.say(f"Report: {Path(summary.report_path).resolve()}")
    terminal.say(f"Ask the new classifier: {program()} predict {shlex.quote(str(folder))} {shlex.quote(DEMO_TEXT)}")
    terminal.say(f"{answer.label}\t{answer.probability:.3f}\t{DEMO_TEXT}")
    return 0


def _doctor(options: argparse.Namespace, terminal: "Terminal") -> int:
    from engine.doctor import examine

    if options.serve:
        from serving.commands import doctor

        return doctor(options, terminal)
    failed = 0
    for finding in examine(options.model, options.deep):
        failed += finding.state == "fail"
        terminal.result("finding", finding)
        terminal.say(f"{finding.state:<5} {finding.name:<18} {finding.found} {finding.remedy}".rstrip())
    return 1 if failed else 0


def _bench(options: argparse.Namespace, terminal: "Terminal") -> int:
    from importlib import import_module

    suite = import_module(f"bench.{options.suite.replace('-', '_')}")
    sys.argv = [f"fourshot bench {options.suite}", *options.arguments]
    suite.main()
    return 0


_COMMANDS: dict[str, "Callable[[argparse.Namespace, Terminal], int]"] = {
    "demo": _demo,
    "doctor": _doctor,
    "bench": _bench,
}


if __name__ == "__main__":
    raise SystemExit(main())

"""What the commands about tasks, runs and corpora do. `fourshot` hands them their options and the terminal.

Each loads what it needs when it is called: `fourshot tasks list` should not wait for a training library.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fourshot.cli.console import Terminal
    from fourshot.training.jobs.jobs import Placement


def run(options: argparse.Namespace, terminal: "Terminal") -> int:
    from fourshot.cli.options import settings_of
    from fourshot.cli.pipeline_parsers import run_folder
    from fourshot.pipeline.runs.run import run_task
    from fourshot.pipeline.tasks.task_file import load_task

    settings = settings_of(options)
    task = load_task(options.task, options.data)
    folder = Path(options.out or run_folder(task.name, options.preset, settings.seed))
    with terminal.progress() as on_event:
        summary = run_task(
            task, options.model, settings, folder, on_event, options.until, _placement(options), options.merge
        )
    terminal.result("result", summary)
    if summary.table:
        terminal.scores(summary.table)
    terminal.say(f"Run folder: {folder}")
    if summary.report_path:
        terminal.say(f"Report: {summary.report_path}")
    if summary.merged_path:
        terminal.say(f"Merged: {summary.merged_path}")
    if summary.adapter_path:
        terminal.say(f"Try it: {program()} predict {shlex.quote(str(folder))} 'A text of your own'")
    return 0


def train(options: argparse.Namespace, terminal: "Terminal") -> int:
    from fourshot.engine.errors import InputError

    if bool(options.task) == bool(options.tasks):
        raise InputError("train takes a TASK, or --tasks with several; give one of the two.")
    if not options.tasks:
        return run(options, terminal)
    if options.merge:
        raise InputError("--merge is for one task: a merged checkpoint is as large as the base. Name a TASK.")
    if options.data:
        raise InputError("--data is the data of one task. With --tasks, let each task file name its folder ([data]).")
    return _train_many(options, terminal)


def _train_many(options: argparse.Namespace, terminal: "Terminal") -> int:
    from fourshot.cli.options import settings_of
    from fourshot.cli.pipeline_parsers import tasks_folder
    from fourshot.pipeline.runs.many import load_tasks, train_tasks

    settings = settings_of(options)
    folder = Path(options.out or tasks_folder(options.preset, settings.seed))
    with terminal.progress() as on_event:
        outcomes = train_tasks(
            load_tasks(options.tasks), options.model, settings, folder, on_event, _placement(options)
        )
    for outcome in outcomes:
        terminal.result("task", outcome)
    terminal.outcomes(outcomes)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    terminal.result("result", {"folder": folder, "tasks": len(outcomes), "failed": len(failed)})
    terminal.say(f"{len(outcomes) - len(failed)} of {len(outcomes)} tasks have their adapter. Folder: {folder}")
    done = next((outcome for outcome in outcomes if outcome.state == "finished"), None)
    if done:
        terminal.say(f"Try one: {program()} predict {shlex.quote(done.folder)} 'A text of your own'")
    return max((_exit_code(outcome.error) for outcome in failed), default=0)


def _placement(options: argparse.Namespace) -> "Placement":
    from fourshot.training.jobs.jobs import Placement

    return Placement(ray=options.ray, gpus_per_job=options.gpus_per_job)


def program() -> str:
    """How this command was called, where a shell would not find it by its name."""
    import shutil

    called = sys.argv[0]
    known = shutil.which("fourshot")
    return "fourshot" if known or not called.endswith("fourshot") else shlex.quote(called)


def _exit_code(error: str) -> int:
    """Of an error that is known by the name of its class."""
    from fourshot.engine import errors

    return int(getattr(getattr(errors, error, None), "exit_code", 1))


def compare(options: argparse.Namespace, terminal: "Terminal") -> int:
    from fourshot.cli.options import settings_of
    from fourshot.cli.pipeline_parsers import choose_methods, read_seeds
    from fourshot.pipeline.runs.compare import DEFAULT_METHODS, METHODS
    from fourshot.pipeline.runs.compare import compare as measure
    from fourshot.pipeline.tasks.task_file import load_task

    methods, seeds = choose_methods(options.methods, METHODS) if options.methods else (), read_seeds(options.seeds)
    settings = settings_of(options)
    task = load_task(options.task, options.data)
    folder = Path(options.out or f"runs/{task.name}/compare-{options.preset}")
    with terminal.progress() as on_event:
        result = measure(
            task, options.model, settings, methods or DEFAULT_METHODS, seeds, folder, on_event, _placement(options)
        )
    terminal.result("result", {"folder": folder, "rows": result.rows})
    terminal.scores(result.rows)
    terminal.say(f"Numbers: {folder / 'comparison.json'}\nReport: {folder / 'report.html'}")
    return 0


def corpus(options: argparse.Namespace, terminal: "Terminal") -> int:
    from fourshot.cli.options import settings_of
    from fourshot.pipeline.corpus.run import make_corpus
    from fourshot.pipeline.corpus.settings import CorpusSettings
    from fourshot.pipeline.runs.many import load_tasks

    with terminal.progress() as on_event:
        summary = make_corpus(
            load_tasks(options.tasks, options.data),
            options.model,
            Path(options.out),
            settings_of(options),
            CorpusSettings(format=options.format, licence=options.licence, adapters=options.adapters, ray=options.ray),
            on_event,
        )
    terminal.result("result", summary)
    terminal.corpus(summary)
    terminal.say(f"{summary.rows} texts in {summary.folder}; README.md there says what they are.")
    return max((_exit_code(one.error) for one in summary.classes if one.error), default=0)


def tasks_list(options: argparse.Namespace, terminal: "Terminal") -> int:
    from fourshot.pipeline.tasks.task_file import load_task, shipped_tasks

    tasks = [load_task(name) for name in shipped_tasks()]
    rows = [
        {"name": t.name, "classes": ", ".join(t.label_names), "data": t.data.hub or "comes with fourshot"}
        for t in tasks
    ]
    terminal.result("result", {"tasks": rows})
    terminal.table(rows)
    return 0


def tasks_new(options: argparse.Namespace, terminal: "Terminal") -> int:
    from fourshot.pipeline.tasks.new_task import new_task

    out = options.out or Path(options.table).stem
    path = new_task(options.table, out, options.name, options.text_column, options.label_column, options.seed)
    terminal.result("result", {"task_file": path})
    terminal.say(f"Wrote {path}. Make its instruction, noun and label words fit, then: {program()} tasks check {path}")
    return 0


def tasks_check(options: argparse.Namespace, terminal: "Terminal") -> int:
    from fourshot.pipeline.tasks.faults import errors_in
    from fourshot.pipeline.tasks.task_file import check_task, find_task_file

    find_task_file(options.task)  # before a model is looked for
    tokenizer = None
    if not options.no_model:
        from fourshot.engine.models import resolve_model
        from fourshot.engine.tokens import load_tokenizer

        tokenizer = load_tokenizer(resolve_model(options.model).path)
    faults = check_task(options.task, tokenizer, k=options.k, data_folder=options.data)
    for fault in faults:
        terminal.say(f"{fault.severity}: {fault}")
    errors = len(errors_in(faults))
    terminal.result("result", {"errors": errors, "faults": faults})
    terminal.say(f"{errors} error{'s' if errors != 1 else ''}, {len(faults) - errors} warnings and notes.")
    return 2 if errors else 0


COMMANDS = {
    "run": run,
    "train": train,
    "compare": compare,
    "corpus": corpus,
    "tasks_list": tasks_list,
    "tasks_new": tasks_new,
    "tasks_check": tasks_check,
}

"""`run`, `generate`, `train`, `evaluate`, `compare`: one task or many, from shots to scores."""

import difflib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fourshot.cli.console import Terminal, program
from fourshot.cli.declare import MODEL, PLAN, Options, argument, command, flag, names_in
from fourshot.cli.options import settings_of, settings_options
from fourshot.engine.errors import InputError, error_class
from fourshot.pipeline.faults import as_word
from fourshot.pipeline.tables.types import check_of_unlabelled

if TYPE_CHECKING:
    from msgspec import UnsetType

    from fourshot.pipeline.runs.run import RunSummary
    from fourshot.pipeline.task import Task
    from fourshot.training.jobs.jobs import Placement

TASK_HELP = "a task that comes with fourshot, a task file, or its folder"
DATA = argument("--data", "FOLDER", "train and test files, in place of the task's own data")
TASK = (argument("task", "TASK", TASK_HELP), DATA)
PLACE = (
    MODEL,
    PLAN,
    argument("--out", "FOLDER", "run folder (default: in runs/TASK/); an existing one is continued"),
    argument("--ray", "WHERE", "generate, annotate, train over Ray: 'local', 'auto' or an address", default=""),
    argument("--gpus-per-job", "N", "GPUs that share each training; without GPUs, processes", type=int, default=1),
    argument("--gpus-per-engine", "N", "GPUs that share the weights of one inference engine", type=int, default=1),
    argument("--train-at-once", "N", "concurrent trainings here (default: as many as fit)", type=int, default=0),
)
ENCODING = argument("--encoding", "NAME", "of --unlabelled, such as cp1252 (default: its byte-order mark, or UTF-8)")
UNLABELLED = (
    argument("--unlabelled", "FILE", "texts without labels, learnt with the annotators' labels"),
    argument("--text-column", "NAME", "of --unlabelled, if it is not the task's text column or the only one"),
    ENCODING,
    argument("--ask", "N", "stop until you label the N of them whose labels would help most", type=int, default=0),
)
MERGE = flag("--merge", "also write base and adapter as one checkpoint, for servers without LoRA support")
TASKS_HELP = "in place of TASK: names, task files, or folders of them, each with its own adapter, trained together"
OUTCOMES = {  # key of `TaskOutcome` -> heading
    "task": "task",
    "state": "state",
    "synthetic_examples": "synthetic",
    "steps": "steps",
    "loss": "loss",
    "train_s": "train s",
    "message": "why",
}
MOST_SEEDS = 1000
OF_UNLABELLED = ("text_column", "encoding")  # how its table is read
SETTINGS = settings_options()


@command(
    "evaluate",
    *TASK,
    *PLACE,
    *UNLABELLED,
    *SETTINGS,
    until="evaluate",
    merge=False,
    about="Run until the classifier is evaluated.",
)
@command(
    "generate", *TASK, *PLACE, *UNLABELLED, *SETTINGS, until="generate", merge=False, parser={"aliases": ["filter"]},
    about="Write and filter the synthetic texts, and stop there.",
)  # fmt: skip
@command("run", *TASK, *PLACE, MERGE, *UNLABELLED, *SETTINGS, until="report")
def run(options: Options, terminal: Terminal) -> None:
    """Run all steps: shots, synthetic texts, training, evaluation, report."""
    from fourshot.api import default_folder
    from fourshot.pipeline.cells.run_folder import RunFolder
    from fourshot.pipeline.runs.run import RunRequest, do_run, plan_run
    from fourshot.pipeline.tasks.task_file import load_task

    settings = settings_of(options)
    check_of_unlabelled(options.unlabelled, options.text_column, options.encoding)
    if unlabelled_settings := {name: value for name in OF_UNLABELLED if (value := getattr(options, name))}:
        settings = msgspec.structs.replace(
            settings, unlabelled=msgspec.structs.replace(settings.unlabelled, **unlabelled_settings)
        )
    task = load_task(options.task, options.data)
    folder = options.out or default_folder(task.name, options.preset, settings.seed)
    request = RunRequest(
        task,
        options.model,
        settings,
        Path(folder),
        until=options.until,
        placement=_placement(options),
        merge=options.merge,
        unlabelled=Path(options.unlabelled) if options.unlabelled else None,
        ask=options.ask,
    )
    with terminal.progress() as on_event:
        if options.plan:
            terminal.forecast(plan_run(request, on_event))
            return
        summary = do_run(request, on_event, forecast=_has_forecast(options))
    repeat_command = f"{program()} {shlex.join(['run', *options.words[1:]])}"  # whichever stage this call named
    RunFolder(folder).write_command(repeat_command)
    terminal.result("result", summary)
    _say_summary(summary, task, folder, repeat_command, terminal)


def _say_summary(
    summary: "RunSummary", task: "Task", folder: str | Path, repeat_command: str, terminal: Terminal
) -> None:
    """Print for people the scores, the paths of the results, and what to do next."""
    from fourshot.pipeline.rows.fields import sample_argument

    if summary.table:
        terminal.scores(summary.table)
        for row in summary.table:
            if row["method"] == "fourshot" and row.get("interval"):
                low, high = (100 * bound for bound in row["interval"])
                terminal.say(f"fourshot: {low:.1f} to {high:.1f} % (95 % interval, by the number of test texts).")
    _say_left_out(summary.left_out, terminal)
    terminal.verdict(summary.forecast)
    terminal.say(f"Run folder: {folder}")
    if summary.ask_path:
        terminal.say(f"Label the texts in {summary.ask_path} (column label), then run the same command again:")
        terminal.say(f"  {repeat_command}")
    if summary.report_path:
        terminal.say(f"Report: {summary.report_path}")
    if summary.merged_path:
        terminal.say(f"Merged: {summary.merged_path}")
    if summary.adapter_path:
        terminal.say(f"Try it: {program()} predict {as_word(folder)} {sample_argument(task)}")


@command(
    "train",
    argument("task", "TASK", TASK_HELP, nargs="?"),
    DATA,
    argument("--tasks", "PATH", TASKS_HELP, nargs="+", default=()),
    *PLACE,
    MERGE,
    *UNLABELLED,
    *SETTINGS,
    until="train",
)
def train(options: Options, terminal: Terminal) -> int | None:
    """Run until the adapter is trained."""
    if bool(options.task) == bool(options.tasks):
        raise InputError("train takes a TASK, or --tasks with several. Give one of the two.")
    if not options.tasks:
        return run(options, terminal)
    if options.merge:
        raise InputError("--merge is for one task: a merged checkpoint is as large as the base. Name a TASK.")
    if options.unlabelled or options.ask:
        raise InputError("--unlabelled and --ask are for one task. Name a TASK in place of --tasks.")
    check_of_unlabelled(options.unlabelled, options.text_column, options.encoding)
    if options.data:
        raise InputError("--data is the data of one task. With --tasks, let each task file name its folder ([data]).")
    from fourshot.api import default_folder
    from fourshot.pipeline.runs.many import TrainingsRequest, do_trainings, plan_trainings
    from fourshot.pipeline.tasks.task_paths import load_tasks

    settings = settings_of(options)
    folder = options.out or default_folder("tasks", options.preset, settings.seed)
    with terminal.progress() as on_event:
        tasks = load_tasks(options.tasks)
        request = TrainingsRequest(tasks, options.model, settings, Path(folder), _placement(options))
        if options.plan:
            terminal.forecast(plan_trainings(request, on_event))
            return 0
        outcomes = do_trainings(request, on_event, forecast=_has_forecast(options))
    for outcome in outcomes:
        terminal.result("task", outcome)
    terminal.table(outcomes, OUTCOMES)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    terminal.result("result", {"folder": folder, "tasks": len(outcomes), "failed": len(failed)})
    terminal.say(f"{len(outcomes) - len(failed)} of {len(outcomes)} tasks have their adapter. Folder: {folder}")
    done = next((outcome for outcome in outcomes if outcome.state == "finished"), None)
    if done:
        terminal.say(f"Try one: {program()} predict {as_word(done.folder)} 'A text of your own'")
    return max((error_class(outcome.error).exit_code for outcome in failed), default=0)


@command(
    "compare",
    *TASK,
    *PLACE,
    argument("--methods", "METHODS", "comma-separated, such as icl,lora,fourshot; an unknown one lists them all"),
    argument("--seeds", "SEEDS", "a count, or a list such as 0,1,2; each draws its own shots", default="1"),
    *settings_options(without=["--seed"]),
)
def compare(options: Options, terminal: Terminal) -> None:
    """Measure several methods on one task, as a table."""
    from fourshot.pipeline.cells.methods import METHODS
    from fourshot.pipeline.runs.compare import DEFAULT_METHODS, ComparisonRequest, do_comparison, plan_comparison
    from fourshot.pipeline.tasks.task_file import load_task

    methods = choose_methods(options.methods, METHODS) if options.methods else DEFAULT_METHODS
    seeds = read_seeds(options.seeds)
    settings = settings_of(options)
    task = load_task(options.task, options.data)
    folder = Path(options.out or f"runs/{task.name}/compare-{options.preset}")
    request = ComparisonRequest(task, options.model, settings, methods, seeds, folder, _placement(options))
    with terminal.progress() as on_event:
        if options.plan:
            terminal.forecast(plan_comparison(request, on_event))
            return
        result = do_comparison(request, on_event, forecast=_has_forecast(options))
    document = {"folder": folder, "rows": result.rows}
    terminal.result("result", document | ({"left_out": result.left_out} if result.left_out else {}))
    terminal.scores(result.rows)
    _say_left_out(result.left_out, terminal)
    terminal.say(f"Numbers: {folder / 'comparison.json'}\nReport: {folder / 'report.html'}")


def _say_left_out(left_out: "Mapping[str, str] | UnsetType", terminal: Terminal) -> None:
    for method, reason in (left_out or {}).items():
        terminal.say(f"{method} is left out: {reason}")


def _has_forecast(options: Options) -> bool:
    """Whether the command begins with a forecast."""
    return not (options.quiet or options.ray)  # a forecast is of one machine


def _placement(options: Options) -> "Placement":
    from fourshot.training.jobs.jobs import Placement

    return Placement(
        ray=options.ray,
        gpus_per_job=options.gpus_per_job,
        gpus_per_engine=options.gpus_per_engine,
        at_once=options.train_at_once,
    )


def choose_methods(text: str, methods: Mapping[str, object]) -> list[str]:
    """Return the methods that a comma-separated list names, each once, in its order. Raises `InputError`."""
    names = list(dict.fromkeys(names_in(text)))
    unknown = [name for name in names if name not in methods]
    if unknown or not names:
        suggestions = [match for name in unknown for match in difflib.get_close_matches(name, methods, n=1)]
        hint = f" Did you mean {' or '.join(suggestions)}?" if suggestions else ""
        raise InputError(
            f"--methods {text}: {'no such method: ' + ', '.join(unknown) if unknown else 'no method named'}.{hint} "
            f"Methods are {', '.join(methods)}."
        )
    return names


def read_seeds(text: str) -> list[int]:
    """Parse seeds: ``3`` is 0, 1, 2; ``4,7`` is 4 and 7; ``4,`` is 4 alone. Raises `InputError`."""
    try:
        numbers = [int(part) for part in names_in(text)]
    except ValueError:
        numbers = []
    is_count = len(numbers) == 1 and "," not in text
    if is_count and numbers[0] > MOST_SEEDS:
        raise InputError(
            f"--seeds {text}: give a count of at most {MOST_SEEDS:,}. Each seed is a whole run of every method. For "
            f"one seed of that number, put a comma after it: --seeds {text},"
        )
    seeds = list(range(numbers[0])) if is_count else numbers
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise InputError(
            f"--seeds {text}: give a count of at least 1 (3 is 0,1,2), or a list of different seeds such as 0,1,2."
        )
    return seeds

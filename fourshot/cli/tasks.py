"""`tasks list`, `new` and `check`."""

from pathlib import Path

from fourshot.cli.console import Terminal, program
from fourshot.cli.declare import MODEL, Options, argument, command, flag
from fourshot.cli.runs import TASK


@command("tasks list")
def list_tasks(options: Options, terminal: Terminal) -> None:
    """The tasks that come with fourshot."""
    from fourshot.pipeline.tasks.task_file import load_task, shipped_tasks

    rows = [
        {"name": task.name, "classes": ", ".join(task.label_names), "data": task.data.hub or "comes with fourshot"}
        for task in map(load_task, shipped_tasks())
    ]
    terminal.result("result", {"tasks": rows})
    terminal.table(rows)


@command(
    "tasks new",
    argument("table", "TABLE", "a JSONL, CSV, TSV or Parquet file"),
    argument("--out", "FOLDER", "default: the table's name without its ending"),
    argument("--name", "NAME", "of the task (default: the table's)"),
    argument("--text-column", "NAME", "default: found by its name or by what is in it"),
    argument("--label-column", "NAME", "default: found by its name or by what is in it"),
    argument("--seed", "SEED", "draws the test split (default: 0)", type=int, default=0),
)
def new(options: Options, terminal: Terminal) -> None:
    """Write a task folder from a table of texts and labels."""
    from fourshot.pipeline.tasks.new_task import new_task

    out = options.out or Path(options.table).stem
    path = new_task(options.table, out, options.name, options.text_column, options.label_column, options.seed)
    terminal.result("result", {"task_file": path})
    terminal.say(f"Wrote {path}. Make its instruction, noun and label words fit, then: {program()} tasks check {path}")


@command(
    "tasks check",
    *TASK,
    MODEL,
    flag("--no-model", "do not look at the label words as the model sees them"),
    argument("--shots", "K", "real examples per class that a run will draw", type=int, default=4),
)
def check(options: Options, terminal: Terminal) -> int:
    """Explain every fault of a task file and its data, all at once."""
    from fourshot.pipeline.tasks.faults import errors_in
    from fourshot.pipeline.tasks.task_file import check_task, find_task_file

    find_task_file(options.task)  # before a model is looked for
    tokenizer = None
    if not options.no_model:
        from fourshot.engine.models import resolve_model
        from fourshot.engine.tokens import load_tokenizer

        tokenizer = load_tokenizer(resolve_model(options.model).path)
    faults = check_task(options.task, tokenizer, k=options.shots, data_folder=options.data)
    for fault in faults:
        terminal.say(f"{fault.severity}: {fault}")
    errors = len(errors_in(faults))
    terminal.result("result", {"errors": errors, "faults": faults})
    terminal.say(f"{errors} error{'s' if errors != 1 else ''}, {len(faults) - errors} warnings and notes.")
    return 2 if errors else 0

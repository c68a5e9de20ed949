"""`tasks list`, `new` and `check`."""

import shlex
from pathlib import Path

from fourshot.cli.console import Terminal, program
from fourshot.cli.declare import MODEL, Options, argument, command, flag
from fourshot.cli.given import refuse
from fourshot.cli.runs import TASK
from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import as_word

CLASSES_SHOWN = 8  # in the list of tasks
DEFAULT_SHOTS = 4  # of each class, as `RunSettings.k`


@command("tasks list")
def list_tasks(options: Options, terminal: Terminal) -> None:
    """List the tasks that come with fourshot."""
    from fourshot.pipeline.faults import shorten
    from fourshot.pipeline.tasks.generation import GenerationTask
    from fourshot.pipeline.tasks.task_file import load_any_task, shipped_tasks

    rows = []
    for task in map(load_any_task, shipped_tasks()):
        classes = None if isinstance(task, GenerationTask) else task.label_names
        rows.append({"name": task.name, "classes": classes, "data": task.data.hub or "comes with fourshot"})
    terminal.result("result", {"tasks": rows})
    terminal.table(
        [{**row, "classes": shorten(row["classes"] or ["(text generation)"], CLASSES_SHOWN)} for row in rows]
    )


@command(
    "tasks new",
    argument("table", "TABLE", "CSV, TSV, JSON Lines, JSON, Parquet, Arrow or a spreadsheet; compressed or not"),
    argument("--out", "FOLDER", "default: the task's name, or the table's without its suffix"),
    argument("--name", "NAME", "of the task (default: the table's)"),
    argument(
        "--text-column",
        "NAME",
        "default: detected by name and content; several are joined into one text",
        action="append",
        default=[],
    ),
    argument("--field", "NAME", "a column that is one of several fields of an input", action="append", default=[]),
    argument(
        "--label-column",
        "NAME",
        "default: detected by name or content; several are of one annotator each, who must agree",
        action="append",
        default=[],
    ),
    argument("--verdict-column", "NAME", "with the accept or reject of an annotation tool; or none"),
    argument("--missing-label", "LABEL", "means that a row has no label: leave it out", action="append", default=[]),
    argument("--encoding", "NAME", "of a text file, such as cp1252 (default: by its byte-order mark, else UTF-8)"),
    flag("--no-header", "the table has no header: its columns are called 1, 2, ..."),
    argument("--sheet", "NAME", "of a spreadsheet (default: the only one that is not empty)"),
    flag("--merge-labels", "merge labels that read the same into one class, such as Bug and bug"),
    flag("--skip-broken", "leave out, and count, rows that cannot be read, have no label or several"),
    argument("--seed", "SEED", "draws the test split (default: 0)", type=int, default=0),
)
def new(options: Options, terminal: Terminal) -> None:
    """Write a task folder from a table of texts and labels."""
    from fourshot.pipeline.faults import clipped, counted, shorten
    from fourshot.pipeline.rows.text_table import MADE_FROM
    from fourshot.pipeline.rows.usable_rows import TableChoices
    from fourshot.pipeline.tables.file_bytes import table_stem
    from fourshot.pipeline.tables.files import ReadSettings
    from fourshot.pipeline.tasks.new_task import new_task

    choices = TableChoices(
        text_columns=tuple(options.text_column),
        fields=tuple(options.field),
        label_columns=tuple(options.label_column),
        verdict_column=options.verdict_column or "",
        missing_labels=tuple(options.missing_label),
        merge_labels=options.merge_labels,
        reading=ReadSettings(
            encoding=options.encoding or "",
            header=False if options.no_header else None,
            sheet=options.sheet or "",
            skip_broken=options.skip_broken,
        ),
    )
    out = options.out or options.name or table_stem(Path(options.table))
    task = new_task(options.table, out, choices, options.name, options.seed)
    terminal.result("result", task)
    for kind, columns, alternatives in (
        ("fields" if task.fields else "texts", task.text_columns, task.other_text_columns),
        ("labels", task.label_columns, task.other_label_columns),
    ):
        also_possible = f"; also possible: {shorten(map(repr, alternatives))}" if alternatives else ""
        terminal.say(f"{kind}: column{'s' * (len(columns) > 1)} {' and '.join(map(repr, columns))}{also_possible}")
    terminal.say(f"classes: {shorten((f'{clipped(name, 60)} ({count})' for name, count in task.labels.items()), 12)}")
    for notice in task.notices:
        terminal.say(f"{notice.severity}: {notice}")
    dropped = sum(reason.count for reason in task.left_out)
    terminal.say(f"{counted(task.rows, 'row')}: {task.train} for training, {task.test} for testing, {dropped} left out")
    for reason in task.left_out:
        first = ", ".join(map(str, reason.lines[:5]))
        rest_note = f" and {reason.count - 5} more" if reason.count > 5 else ""
        terminal.say(f"  {counted(reason.count, 'row')} {reason.what}: {task.unit} {first}{rest_note}")
    if task.asked_words:
        proposals = ", ".join(f"{word!r} for {name!r}" for name, word in task.asked_words.items() if word)
        terminal.say(
            f"warning: these mean nothing to a model: {shorten(map(repr, task.asked_words))}. Write a word for each "
            f"into the task file.{f' Proposed: {proposals}.' if proposals else ''}"
        )
    left_out = f" Rows left out: {Path(task.task_file).parent / MADE_FROM}." if dropped else ""
    terminal.say(
        f"Wrote {task.task_file}.{left_out} Edit its instruction, noun and label words, then: "
        f"{program()} tasks check {as_word(task.task_file)}"
    )


@command(
    "tasks check",
    *TASK,
    MODEL,
    flag("--no-model", "do not check the label words with the model's tokenizer"),
    argument("--shots", "K", "real examples per class that a run will draw", type=int, default=DEFAULT_SHOTS),
)
def check(options: Options, terminal: Terminal) -> int:
    """Explain every fault of a task file and its data, all at once."""
    from fourshot.pipeline.faults import condensed, counted, errors_in
    from fourshot.pipeline.tasks.data_check import FEWER_SHOTS
    from fourshot.pipeline.tasks.task_file import check_task, find_task_file

    if options.no_model:
        refuse(options, "how a model sees the label words; --no-model skips that", "model")
    find_task_file(options.task)  # before a model is looked for
    if options.shots < 1:
        raise InputError(f"--shots is a number of examples per class, at least 1; got {options.shots}.")
    tokenizer = None
    if not options.no_model:
        from fourshot.engine.checkpoints.models import resolve_model
        from fourshot.engine.tokens import load_tokenizer

        tokenizer = load_tokenizer(resolve_model(options.model).path)
    faults = check_task(options.task, tokenizer, k=options.shots, data_folder=options.data)
    for line in condensed(faults):
        terminal.say(line)
    errors = len(errors_in(faults))
    terminal.result("result", {"errors": errors, "faults": faults})
    counts = (counted(sum(fault.severity == kind for fault in faults), kind) for kind in ("error", "warning", "note"))
    terminal.say(f"{', '.join(counts)}.")
    if not errors:
        has_fewer = any(f"{FEWER_SHOTS} {options.shots} shots" in fault.what for fault in faults)
        terminal.say(f"Next: {_next_step(options, has_fewer=has_fewer)}")
    return 2 if errors else 0


def _next_step(options: Options, *, has_fewer: bool) -> str:
    """Return the command to use a task without errors. ``has_fewer``: a class has fewer examples than --shots."""
    from fourshot.pipeline.tasks.generation import GenerationTask
    from fourshot.pipeline.tasks.task_file import load_any_task

    step = "distill" if isinstance(load_any_task(options.task, options.data), GenerationTask) else "run"
    data = f" --data {as_word(options.data)}" if options.data else ""
    model = f" --model {shlex.quote(options.model)}" if options.model else ""
    shots = f" --shots {options.shots}" if step == "run" and options.shots != DEFAULT_SHOTS else ""
    fewer = " --allow-fewer-shots" if step == "run" and has_fewer else ""
    return f"{program()} {step} {as_word(options.task)}{data}{model}{shots}{fewer}"

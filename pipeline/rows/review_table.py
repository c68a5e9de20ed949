"""A table of texts that a person labels or corrects in a spreadsheet: how it is written, and what may come back.

A person may change ``label`` and ``keep``, sort rows, delete rows (which drops their texts), and add columns. Anything
else is refused with its line. CSV with a byte-order mark, so that spreadsheets read it as UTF-8.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.faults import MOST_NAMED, TaskFault, counted, error, nearest, raise_errors, shorten
from fourshot.pipeline.rows.examples import normalised_text
from fourshot.pipeline.rows.fields import split_fields
from fourshot.pipeline.rows.labels.cells import visible
from fourshot.pipeline.rows.labels.words import reads_as, retyped
from fourshot.pipeline.tables.files import ReadSettings, read_table
from fourshot.pipeline.task import Task

COLUMNS = ("id", "text", "label", "keep", "why", "probabilities")
# A spreadsheet takes what begins with one of these for a formula; with an apostrophe in front it does not. Source:
# OWASP, "CSV Injection". The apostrophe is guarded like them, so that taking one away undoes every guard.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")
SAVED_AS = (".csv", ".tsv", ".txt", ".xlsx", ".xls", ".ods", ".numbers", ".jsonl")  # by whoever fills a table in
BACKUPS = ("~", ".bak", ".orig", ".swp", ".tmp")  # of editors
LONGEST_CELL = 32_000  # characters; spreadsheets cut cells after 32,767
AS_WRITTEN = ReadSettings(header=True, offers=())
YES, NO = ("yes", "y", "true", "1"), ("no", "n", "false", "0")  # as `retyped` reads them
MOST_PROBABILITIES = 4  # shown, the likeliest


class ReviewRow(msgspec.Struct, frozen=True, kw_only=True):
    """A text as a person is shown it."""

    id: str
    text: str
    label: str  # that will be learnt; "": a person is asked for it
    keep: bool
    why: str  # it is there
    probabilities: dict[str, float] = {}  # the annotators'

    def shown(self, columns: Sequence[str]) -> dict[str, str]:
        """The text as the table has it, by column."""
        values = {"text": self.text} if columns == ("text",) else split_fields(columns, self.text)
        return {name: value.replace("\0", "")[:LONGEST_CELL] for name, value in (values or {}).items()}


class ReviewAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says of a text."""

    label: str
    keep: bool
    is_deleted: bool = False  # the row is not there any more, so neither is kept


def text_columns(task: Task) -> tuple[str, ...]:
    """A column for each field of the task, unless the table has another one of that name."""
    return task.input_fields if task.input_fields and not set(COLUMNS) & {*task.input_fields} else ("text",)


def columns_of(texts: Sequence[str]) -> tuple[str, ...]:
    """All columns, with ``texts`` for those of the text."""
    return (COLUMNS[0], *texts, *COLUMNS[2:])


def write_review(
    path: Path, rows: Sequence[ReviewRow], answers: Mapping[str, ReviewAnswer] | None = None, *, task: Task
) -> None:
    """Write the table, whole or not at all; ``answers``, by id, stand in place of what was proposed."""
    texts = text_columns(task)
    content = io.StringIO(newline="")
    table = csv.writer(content)
    table.writerow(columns_of(texts))
    for row in rows:
        answer = (answers or {}).get(row.id)
        if answer and answer.is_deleted:
            continue
        label, keep = (answer.label, answer.keep) if answer else (row.label, row.keep)
        likeliest = sorted(row.probabilities, key=lambda name: -row.probabilities[name])[:MOST_PROBABILITIES]
        shares = ", ".join(f"{name} {row.probabilities[name]:.2f}" for name in likeliest)
        cells = (row.id, *row.shown(texts).values(), label, "yes" if keep else "no", row.why, shares)
        table.writerow([guard(cell) for cell in cells])
    replace_file(path, content.getvalue().encode("utf-8-sig"))


def guard(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell


def unguard(cell: str) -> str:
    """The cell that was guarded."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA_STARTS) else cell


def read_review(path: Path, rows: Sequence[ReviewRow], task: Task) -> dict[str, ReviewAnswer]:
    """A person's answers by id, of every row that was written: one that is not there any more is not kept.

    Raises InputError with every fault, each with its line: an unknown label, a text that was changed, a row that is
    new or there twice, a column that is missing.
    """
    table = read_table(path, AS_WRITTEN, may_be_empty=True)
    columns, texts = columns_of(text_columns(task)), text_columns(task)
    needed = columns[: columns.index("why")]
    missing = [column for column in needed if column not in table.columns]
    if missing:
        problem = (
            f"no column {' and '.join(map(repr, missing))}; the columns are {', '.join(map(repr, table.columns))}."
        )
        raise_errors([error(path, problem, f"Put it back, as it was written: {', '.join(columns)}.")])
    written = {row.id: row for row in rows}
    answers: dict[str, ReviewAnswer] = {}
    faults: list[TaskFault] = []
    for line, cells in table.rows.items():
        entry = {name: unguard(_cell(value)) for name, value in cells.items() if name in needed}
        if not any(cell.strip() for cell in entry.values()):
            continue
        name = entry["id"].strip()
        place = f"{path}:{line}"
        if name not in written:
            remedy = "Rows cannot be added here: put texts of your own into the training data. Remove the row."
            faults.append(error(place, f"the id {name!r} is not one that was written.", remedy))
        elif name in answers:
            faults.append(error(place, f"the id {name!r} stands there twice.", "Remove one of the rows."))
        else:
            answers[name] = _answer(place, entry, written[name], texts, task, faults)
    raise_errors(faults)
    return {row.id: answers.get(row.id, ReviewAnswer(label=row.label, keep=False, is_deleted=True)) for row in rows}


def _cell(value: Any) -> str:
    """What a cell says, also one of a spreadsheet that kept its name."""
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def _answer(
    place: str, entry: Mapping[str, str], row: ReviewRow, texts: Sequence[str], task: Task, faults: list[TaskFault]
) -> ReviewAnswer:
    """What a row says; its faults go into ``faults``."""
    for name, shown in row.shown(texts).items():
        if retyped(visible(entry[name])) != retyped(visible(shown)):
            was = json.dumps(shown if len(shown) < 80 else shown[:77] + "...", ensure_ascii=False)
            problem = f"the {name} of {row.id} was changed; only label and keep may be."
            faults.append(error(place, problem, f"Put it back, or delete the row: {was}"))
    keep_cell = retyped(entry["keep"]).casefold()
    if keep_cell not in (*YES, *NO):
        faults.append(error(place, f"keep is {entry['keep']!r}; allowed are yes and no.", "Write one of them."))
    keep = keep_cell in YES
    label = label_named(entry["label"], task.label_names)
    if label is None:
        allowed = f"the task's labels are {shorten(task.label_names, MOST_NAMED)}."
        label_cell = entry["label"].strip()
        faults.append(error(place, f"unknown label {label_cell!r}; {allowed}", nearest(label_cell, task.label_names)))
    elif not label and row.label and keep:
        faults.append(error(place, "the label is gone.", "Put one in, or say no under keep."))
    return ReviewAnswer(label=label or "", keep=keep)


def label_named(cell: str, names: Sequence[str]) -> str | None:
    """The one of the labels that a cell names, "" for none, None for one that there is not.

    It may read the same where that leaves no doubt: spreadsheets write TRUE or WAHR for true, and 1 for 01.
    """
    cell = cell.strip()
    if not cell or cell in names:
        return cell
    for spelling in (reads_as, retyped):
        alike = [name for name in names if spelling(visible(name)) == spelling(visible(cell))]
        if alike:
            return alike[0] if len(alike) == 1 else None
    return None


def check_alone(path: Path, *endings: str) -> None:
    """Raise InputError where files beside ``path`` may be the same table, saved by a person under another name.

    ``endings``: those of files of that name that are no such table.
    """
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    if copies := sorted(file.name for file in beside if file.suffix not in endings and _is_copy(file.name, path)):
        kind = f"{path.suffix.removeprefix('.').upper()} (UTF-8)" if path.suffix in (".csv", ".tsv") else "JSON Lines"
        raise InputError(
            f"{path.parent} has {', '.join(copies)}. A person's answers are read from {path.name} alone: save the "
            f"table as {kind} under this name, and move the others away."
        )


def _is_copy(name: str, path: Path) -> bool:
    """Whether a file called ``name`` may be the table ``path``: "review (1).csv", "Copy of review.csv" or the like."""
    if name == path.name or name.startswith((".", "~")) or name.endswith(BACKUPS):  # open in a program, or its backup
        return False
    is_named = re.search(rf"(?<![a-z]){re.escape(path.stem)}", name, re.IGNORECASE)
    is_table = name.casefold().endswith(SAVED_AS) or re.fullmatch(rf"{re.escape(path.stem)}\.\w+", name)
    return bool(is_named and is_table)


def corrections(table_name: str, texts: Iterable[str], out: str, remaining_texts: Iterable[str]) -> list[str]:
    """What is to be told of the texts of the table ``table_name`` that a person took out of ``out``, or put into it."""
    before, after = (Counter(map(normalised_text, table_texts)) for table_texts in (texts, remaining_texts))
    gone, new = (before - after).total(), (after - before).total()
    notes = [f"{counted(gone, 'text')} of {table_name} not in {out} any more, and not learnt"] if gone else []
    return notes + (
        [f"{counted(new, 'text')} in {out} not of {table_name}: added or changed, and learnt"] if new else []
    )


def own_columns(path: Path, task: Task) -> list[str]:
    """Columns that a person added."""
    columns = columns_of(text_columns(task))
    return [column for column in read_table(path, AS_WRITTEN, may_be_empty=True).columns if column not in columns]

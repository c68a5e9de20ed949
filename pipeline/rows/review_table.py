"""Write and read the table of texts that a person labels or corrects in a spreadsheet.

A person may change ``label`` and ``keep``, sort rows, delete rows (which drops their texts), and add columns. Any other
change is an error with its line. The table is CSV with a byte-order mark, so that spreadsheets read it as UTF-8.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.faults import MOST_NAMED, TaskFault, error, nearest, raise_errors, shorten
from fourshot.pipeline.rows.fields import split_fields
from fourshot.pipeline.rows.labels.cells import visible
from fourshot.pipeline.rows.labels.words import reads_as, retyped
from fourshot.pipeline.tables.files import ReadSettings, read_table
from fourshot.pipeline.task import Task

COLUMNS = ("id", "text", "label", "keep", "why", "probabilities")
# Spreadsheets take a cell that begins with one of these for a formula, unless an apostrophe precedes it. Source:
# OWASP, "CSV Injection". The apostrophe itself is guarded too, so that removing one reverses every guard.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# What spreadsheets take for a number, a date or a time, and save in another form: 1.10, 007, 1e5, 10-12, 10:30, Mar 5.
REFORMATTED = re.compile(
    r"\d+(?:[-./:, ]\d+)+[.)]?(?: ?[ap]m)?|0\d+|\d{16,}|\(\d+\)|\d+\.|\.\d+|\d+e\d+|(?=.*\d)(?:\d{1,4}[-./ ]?)?"
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[-./ ]?\d{0,4}",
    re.IGNORECASE,
)
TYPED_AS_TEXT = "In a spreadsheet, type an apostrophe before a label that it would take for a number or a date."
SAVED_AS = (".csv", ".tsv", ".txt", ".xlsx", ".xls", ".ods", ".numbers", ".jsonl")  # by a person
BACKUPS = ("~", ".bak", ".orig", ".swp", ".tmp")  # of editors
LONGEST_CELL = 32_000  # characters; spreadsheets cut cells after 32,767
AS_WRITTEN = ReadSettings(header=True, offers=())
YES, NO = ("yes", "y", "true", "1"), ("no", "n", "false", "0")  # in the form of `retyped`
MOST_PROBABILITIES = 4  # shown, the highest


class ReviewRow(msgspec.Struct, frozen=True, kw_only=True):
    """A text as it is shown to a person."""

    id: str
    text: str
    label: str  # that will be trained on; "": the person is asked for it
    keep: bool
    why: str  # reason for which the text is in the table
    probabilities: dict[str, float] = {}  # the annotators'

    def shown(self, columns: Sequence[str]) -> dict[str, str]:
        """Return column -> cell of the text, without NUL characters and cut to `LONGEST_CELL`."""
        values = {"text": self.text} if columns == ("text",) else split_fields(columns, self.text)
        return {name: value.replace("\0", "")[:LONGEST_CELL] for name, value in (values or {}).items()}


class ReviewAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A person's answer about a text."""

    label: str
    keep: bool
    is_deleted: bool = False  # the person deleted the row, so the text is not kept


def text_columns(task: Task) -> tuple[str, ...]:
    """Return a column for each field of the task; only "text" without fields, or if one has a name of `COLUMNS`."""
    return task.input_fields if task.input_fields and not set(COLUMNS) & {*task.input_fields} else ("text",)


def columns_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Return all columns, with ``texts`` in place of the column of the text."""
    return (COLUMNS[0], *texts, *COLUMNS[2:])


def write_review(
    path: Path, rows: Sequence[ReviewRow], answers: Mapping[str, ReviewAnswer] | None = None, *, task: Task
) -> None:
    """Write the table completely or not at all. ``answers``, by id, replace the proposals; deleted rows are omitted."""
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
        cells = [kept_as_text(cell) for cell in (*row.shown(texts).values(), label)]
        table.writerow([row.id, *cells, "yes" if keep else "no", row.why, guard(shares)])
    replace_file(path, content.getvalue().encode("utf-8-sig"))


def guard(cell: str) -> str:
    """Return a cell with an apostrophe in front if a spreadsheet would take it for a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell


def kept_as_text(cell: str) -> str:
    """Return `guard(cell)`, with an apostrophe also if a spreadsheet would save the cell in another form."""
    return f"'{cell}" if REFORMATTED.fullmatch(cell) else guard(cell)


def unguard(cell: str) -> str:
    """Return the cell that `guard` or `kept_as_text` was given."""
    bare = cell.removeprefix("'")
    return bare if bare.startswith(FORMULA_STARTS) or REFORMATTED.fullmatch(bare) else cell


def read_review(path: Path, rows: Sequence[ReviewRow], task: Task) -> dict[str, ReviewAnswer]:
    """Return a person's answers by id, for every row that was written. A deleted row's text is not kept.

    Raises InputError with all faults: unknown labels, changed texts, new or repeated rows, each with its line, or
    missing columns.
    """
    table = read_table(path, AS_WRITTEN, may_be_empty=True)
    columns, texts = columns_of(text_columns(task)), text_columns(task)
    needed = columns[: columns.index("why")]
    missing = [column for column in needed if column not in table.columns]
    if missing:
        problem = (
            f"no column {' and '.join(map(repr, missing))}; the columns are {', '.join(map(repr, table.columns))}."
        )
        raise_errors([error(path, problem, f"Restore it as it was written: {', '.join(columns)}.")])
    written = {row.id: row for row in rows}
    answers: dict[str, ReviewAnswer] = {}
    faults: list[TaskFault] = []
    for line, cells in table.rows.items():
        entry = {name: _cell(value) for name, value in cells.items() if name in needed}
        if not any(cell.strip() for cell in entry.values()):
            continue
        name = entry["id"].strip()
        place = f"{path}:{line}"
        if name not in written:
            remedy = "Rows cannot be added here. Remove the row, and add texts of your own to the training data."
            faults.append(error(place, f"the id {name!r} is not in the table that was written.", remedy))
        elif name in answers:
            faults.append(error(place, f"the id {name!r} occurs twice.", "Remove one of the rows."))
        else:
            answers[name] = _answer(place, entry, written[name], texts, task, faults)
    raise_errors(faults)
    return {row.id: answers.get(row.id, ReviewAnswer(label=row.label, keep=False, is_deleted=True)) for row in rows}


def _cell(value: Any) -> str:
    """Return a cell as text; a float, from a spreadsheet saved under the table's name, without a zero fraction."""
    return f"{value:.15g}" if isinstance(value, float) else "" if value is None else str(value)


def _answer(
    place: str, entry: Mapping[str, str], row: ReviewRow, texts: Sequence[str], task: Task, faults: list[TaskFault]
) -> ReviewAnswer:
    """Return the answer in a row; its faults are added to ``faults``."""
    for name, shown in row.shown(texts).items():
        if retyped(visible(unguard(entry[name]))) != retyped(visible(shown)):
            was = json.dumps(shown if len(shown) < 80 else shown[:77] + "...", ensure_ascii=False)
            problem = f"the {name} of {row.id} was changed; only label and keep may be."
            faults.append(error(place, problem, f"Restore it, or delete the row: {was}"))
    keep_cell = retyped(entry["keep"]).casefold()
    if keep_cell not in (*YES, *NO):
        faults.append(error(place, f"keep is {entry['keep']!r}; allowed are yes and no.", "Write one of them."))
    keep = keep_cell in YES
    cell = unguard(entry["label"].strip())
    label = label_named(cell, task.label_names)
    alike = [name for name in task.label_names if label and retyped(name) == retyped(label)]
    if label is None:
        allowed = f"the task's labels are {shorten(task.label_names, MOST_NAMED)}."
        hint = TYPED_AS_TEXT if any(map(REFORMATTED.fullmatch, task.label_names)) else ""
        faults.append(error(place, f"unknown label {cell!r}; {allowed}", nearest(cell, task.label_names, hint)))
    elif len(alike) > 1 and label != row.label and cell == entry["label"].strip():
        remedy = "Put an apostrophe in front of the label, or two if you type into a spreadsheet."
        faults.append(error(place, f"{cell!r} may be {' or '.join(alike)}: spreadsheets save them alike.", remedy))
    elif not label and row.label and keep:
        faults.append(error(place, "the label is missing.", "Enter one, or write no in the column keep."))
    return ReviewAnswer(label=label or "", keep=keep)


def label_named(cell: str, names: Sequence[str]) -> str | None:
    """Return the label that a cell names: "" for an empty cell, None for an unknown label.

    Another spelling counts if only one label reads the same: spreadsheets write TRUE or WAHR for true, and 1 for 01.
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
    """Raise InputError if files beside ``path`` may be the same table, saved by a person under another name.

    ``endings``: suffixes of files that are no such table, whatever their name.
    """
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    if copies := sorted(file.name for file in beside if file.suffix not in endings and _is_copy(file.name, path)):
        kind = f"{path.suffix.removeprefix('.').upper()} (UTF-8)" if path.suffix in (".csv", ".tsv") else "JSON Lines"
        raise InputError(
            f"{path.parent} has {', '.join(copies)}. Answers are read only from {path.name}: save the "
            f"table as {kind} under this name, and move the others away."
        )


def _is_copy(name: str, path: Path) -> bool:
    """Return whether a file's name is like that of a copy of ``path``: "review (1).csv", "Copy of review.csv"."""
    if name == path.name or name.startswith((".", "~")) or name.endswith(BACKUPS):  # lock files and backups
        return False
    is_named = re.search(rf"(?<![a-z]){re.escape(path.stem)}", name, re.IGNORECASE)
    is_table = name.casefold().endswith(SAVED_AS) or re.fullmatch(rf"{re.escape(path.stem)}\.\w+", name)
    return bool(is_named and is_table)


def own_columns(path: Path, task: Task) -> list[str]:
    """Return the columns that a person added."""
    columns = columns_of(text_columns(task))
    return [column for column in read_table(path, AS_WRITTEN, may_be_empty=True).columns if column not in columns]

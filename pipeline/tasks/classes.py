"""Determine the classes of a new task from its label column, and find a column with words for them."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import TaskFault, counted, note, shorten
from fourshot.pipeline.rows.columns import ACCEPTED, Columns
from fourshot.pipeline.rows.labels.words import is_meaningless
from fourshot.pipeline.rows.usable_rows import UsableRows
from fourshot.pipeline.tables.files import Table

FEW_CLASSES = 20  # up to this number, a class may have one row


def label_counts(table: Table, usable: UsableRows, most: int | None) -> dict[str, int]:
    """Return label -> number of rows, with numbers by value first and then names.

    Raises `InputError` for fewer than two labels, for more than ``most``, or for too many labels for the rows.
    """
    column, counts = usable.columns.labels[0], Counter(example.label for example in usable.examples)
    left_out = "".join(f" {counted(part.count, 'row')} {part.what} left out." for part in usable.left_out)
    if len(counts) < 2:
        content = f"only {next(iter(counts))!r}" if counts else "nothing usable"
        verdict = usable.columns.verdict
        verdicts = f" To learn which rows are accepted: --label-column {shlex.quote(verdict)} --verdict-column none."
        if not counts:
            verdicts = f" Rows count as accepted where that column says one of {', '.join(sorted(ACCEPTED))}."
        if others := usable.columns.other_labels:
            named = f"--label-column {shlex.quote(others[0])}"
            left_out = f" The labels may also be in {' or '.join(map(repr, others))}: {named}.{left_out}"
        problem = f"a task needs at least 2 classes; the column {column!r} has {content}. Is it the label column?"
        warnings = [str(notice) for notice in table.notices if notice.severity == "warning"]  # they may say why
        raise InputError("\n".join([f"{problem}{left_out}{verdicts if verdict else ''}", *warnings]))
    if len(counts) > (most or len(counts)):
        raise InputError(
            f"the column {column!r} has {len(counts):,} different values in {len(usable.examples):,} rows, more than "
            f"the {most:,} allowed for a column that was not named: it may hold ids. "
            f"If these are the labels: --label-column "
            f"{shlex.quote(column)}.{left_out}"
        )
    if len(counts) > max(FEW_CLASSES, len(usable.examples) / 2):
        raise InputError(
            f"the column {column!r} has {len(counts)} different values in {len(usable.examples)} rows; more than "
            f"{FEW_CLASSES} classes must have two rows or more on average. Is it the label column? To name another: "
            f"--label-column NAME.{left_out}"
        )
    return {name: counts[name] for name in sorted(counts, key=_place)}


def _place(name: str) -> tuple[bool, float, str]:
    """Return the sort key of a label: numbers by their value, then names."""
    is_number = bool(re.fullmatch(r"[+-]?\d{1,9}(\.\d+)?", name, re.ASCII))
    return not is_number, float(name) if is_number else 0, name


def words_elsewhere(table: Table, columns: Columns, asked_words: Mapping[str, str]) -> list[TaskFault]:
    """Return a note about a column with one word for each label, if labels of the task are meaningless."""
    for column in columns.other_labels if asked_words else ():
        pairs = {(str(row.get(columns.labels[0])), str(row.get(column)).strip()) for row in table.rows.values()}
        labels, words = map(set, zip(*pairs, strict=True))
        if len(pairs) == len(labels) == len(words) and not any(map(is_meaningless, words)):
            problem = (
                f"the column {column!r} has a word for each value of {columns.labels[0]!r}: {shorten(sorted(words))}."
            )
            return [note(table.path, problem, f"To use it: --label-column {shlex.quote(column)}")]
    return _words_within(table, columns) if asked_words else []


def _words_within(table: Table, columns: Columns) -> list[TaskFault]:
    """Return a note about an object's key with one word for each label, such as SageMaker Ground Truth's class-name."""
    first = next(iter(table.rows.values()))
    for column, key in [(column, key) for column, cell in first.items() if isinstance(cell, dict) for key in cell]:
        cells = [(str(row.get(columns.labels[0])), row.get(column)) for row in table.rows.values()]
        pairs = {(label, str(cell.get(key)).strip()) for label, cell in cells if isinstance(cell, dict)}
        labels, words = map(set, zip(*pairs, strict=True))
        if len(words) > 1 and len(pairs) == len(labels) == len(words) and not any(map(is_meaningless, words)):
            problem = f"{key!r} in the column {column!r} has a word for each value of {columns.labels[0]!r}: "
            remedy = f"To use it, give it a column of its own, beside {columns.labels[0]!r}."
            return [note(table.path, f"{problem}{shorten(sorted(words))}.", remedy)]
    return []

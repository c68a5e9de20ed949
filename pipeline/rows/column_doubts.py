"""Messages about tables whose columns of texts and labels cannot be determined."""

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from fourshot.pipeline.faults import shorten
from fourshot.pipeline.rows.column_looks import plain_cell, values_of
from fourshot.pipeline.tables.file_bytes import KINDS
from fourshot.pipeline.tables.files import Table
from fourshot.pipeline.tables.types import TEXT_NAMES


class ColumnSearch(NamedTuple):
    """The columns of a table that may be meant, and the chosen ones: empty if in doubt."""

    texts: list[str]
    labels: list[str]
    chosen_texts: list[str]
    chosen_labels: list[str]
    verdicts: list[str]  # that hold a person's verdicts on the rows
    unlikely: list[str]  # not like labels by name or contents, but they repeat names


def column_doubt(table: Table, search: ColumnSearch) -> str:
    """Return a message with what cannot be determined, the columns that may be meant, and what to do."""
    texts, labels, chosen_texts, chosen_labels, verdicts, unlikely = search
    doubts = [
        f" Of these, {'several' if len(columns) > 1 else 'one'} may be the {kind}: "
        f"{', '.join(with_value(table, column) for column in columns)}."
        for kind, columns, chosen in (("text", texts, chosen_texts), ("label", labels, chosen_labels))
        if not chosen and (len(columns) > 1 or (unlikely and kind == "label"))
    ]
    missing = [kind for kind, chosen in (("text", chosen_texts), ("label", chosen_labels)) if not chosen]
    nested = _nested(table)
    if nested:
        name = ""
    elif len(table.columns) < 2:
        name = " A task needs a column of texts and one of labels: add what is missing."
    else:
        options = " ".join(f"--{kind}-column NAME" for kind in missing or ("text", "label"))
        name = f" Name {'it' if chosen_texts or chosen_labels else 'them'}: {options}."
    return (
        f"cannot tell which column of {table.path} is the {' and '.join(missing) or 'text and which the label'}; "
        f"the columns are {names_of(table)}.{''.join(doubts)}{nested}"
        f"{_as_labels(table, verdicts) if verdicts and not chosen_labels else ''}"
        f"{_one_hot(table, labels) if not chosen_labels else ''}{_unseparated(table)}{name}"
        f"{_several_texts(table, search)}"
    )


def _as_labels(table: Table, verdicts: Sequence[str]) -> str:
    """Return what to do if a person's verdicts on the rows are the labels."""
    return (
        f" {with_value(table, verdicts[0])} looks like a person's verdicts on the rows. If it is the label: "
        f"--label-column {shlex.quote(verdicts[0])}."
    )


def _several_texts(table: Table, search: ColumnSearch) -> str:
    """Return what to do if several columns hold texts; "" if they do not."""
    texts = search.texts
    if len(texts) == len(table.columns) > 1 and not any(text.strip().lower() in TEXT_NAMES for text in texts):
        return " If each column is a class with its texts, write one row per text, with the text and its label."
    if len(texts) < 2 or search.chosen_texts:
        return ""
    fields = " ".join(f"--field {shlex.quote(column)}" for column in texts[:4])
    return (
        " Several --text-column are joined into one text. To keep them separate, such as a premise and a hypothesis: "
        f"{fields}."
    )


def names_of(table: Table) -> str:
    return shorten(map(repr, table.columns), 30)


def with_value(table: Table, column: str) -> str:
    texts = (" ".join(str(value).split()) for value in values_of(table, column) if value is not None)
    value = next(filter(None, texts), "")
    return f"{column!r} ({value[:40]}{'...' if len(value) > 40 else ''})"


def _one_hot(table: Table, labels: Sequence[str]) -> str:
    """Return what to do if each class has a column; "" if that is not so."""
    cells = {plain_cell(value).casefold() for column in labels for value in values_of(table, column)}
    is_one_hot = len(labels) > 1 and cells <= {"0", "1", "true", "false"}
    return " If each is a class, with 0 and 1 in it, write one column with the name of the class." if is_one_hot else ""


def _unseparated(table: Table) -> str:
    """Return what to do if a CSV file of one column may have an unknown separator; "" if that is not so."""
    is_csv = KINDS.get(PurePath(table.path).suffix.lower()) == "csv"
    if len(table.columns) > 1 or not is_csv or not re.search(r"\W", table.columns[0]):
        return ""
    return " If these are several columns, write their separator on a first line of its own, such as sep=^ ."


def _nested(table: Table) -> str:
    """Return the required form of a row if a column holds objects or lists, which may contain the text; else ""."""
    first = next(iter(table.rows.values()), {})
    nested = [column for column, value in first.items() if isinstance(value, list | dict)]
    if not nested:
        return ""
    if {"annotations", "data"} <= set(nested):
        return " This is Label Studio's whole export: take its CSV or JSON-MIN export."
    holds = "holds" if len(nested) == 1 else "hold"
    return (
        f" {', '.join(map(repr, nested))} {holds} lists or objects: extract text and label, so that a row "
        'is {"text": "...", "label": "..."}.'
    )

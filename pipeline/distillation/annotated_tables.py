"""A table that was annotated, where a distillation has it, and as a person may have corrected it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import MOST_NAMED, nearest, shorten
from fourshot.pipeline.rows.review_table import label_named
from fourshot.pipeline.tables.files import read_table
from fourshot.pipeline.tables.types import Table

LABEL, PROBABILITY, AGREEMENT, BY = "annotated_label", "annotated_probability", "annotated_agreement", "annotated_by"


def annotation_columns(labels: Sequence[str]) -> list[str]:
    """What is added to a table: the likeliest label, and ``p_LABEL`` for each."""
    return [LABEL, PROBABILITY, AGREEMENT, BY, *(f"p_{label}" for label in labels)]


def annotated_file(table_path: Path, folder: Path) -> Path:
    """Where a distillation has what its teacher says of a table: in the table's own format, where that is text."""
    suffix = table_path.suffix.lower()
    return folder / f"annotated{suffix if suffix in ('.csv', '.tsv') else '.jsonl'}"


def read_annotated(out: Path, columns: Sequence[str]) -> Table:
    """An annotated table, as a person may have left it. Raises InputError where it lacks one of ``columns``."""
    table = read_table(out)
    if missing := [column for column in columns if column not in table.columns]:
        names = " and ".join(map(repr, missing))
        raise InputError(f"{out} has no column {names} any more. Put it back, or remove the file to annotate anew.")
    return table


def annotated_probabilities(row: dict[str, Any], labels: Sequence[str]) -> tuple[float, ...] | None:
    """What a row of such a table teaches, as a person may have corrected it; None: nothing.

    A label that is not the likeliest one, or has no probabilities beside it, was put there by a person, and counts
    alone. Raises InputError where it is none of ``labels``.
    """
    cell = "" if row.get(LABEL) is None else str(row[LABEL]).strip()
    label = label_named(cell, labels)
    if label is None:
        allowed = f"allowed are {shorten(labels, MOST_NAMED)}, or nothing to leave a row out."
        raise InputError(f"{LABEL} is {cell!r}; {allowed} {nearest(cell, labels)}".rstrip())
    if not label:
        return None
    if is_own(row, labels):
        return tuple(float(name == label) for name in labels)
    shares = _teacher_shares(row, labels)
    return tuple(value / sum(shares) for value in shares)


def is_own(row: dict[str, Any], labels: Sequence[str]) -> bool:
    """Whether a person put the label into a row that can be read: another one is likelier, or none has a share."""
    label = label_named("" if row.get(LABEL) is None else str(row[LABEL]), labels)
    shares = _teacher_shares(row, labels)
    return bool(label) and not (shares and shares[labels.index(str(label))] == max(shares))


def _teacher_shares(row: dict[str, Any], labels: Sequence[str]) -> list[float]:
    """The teacher's probabilities in a row, as they are there; none where they are not all there. Raises InputError."""
    shares = [_share(f"p_{name}", row.get(f"p_{name}")) for name in labels]
    known_shares = [share for share in shares if share is not None]
    is_known = len(known_shares) == len(labels) and 0 < sum(known_shares) < math.inf and min(known_shares) >= 0
    return known_shares if is_known else []


def _share(column: str, cell: Any) -> float | None:
    """A probability as a spreadsheet left it, with a comma or as per cent; None where there is none.

    Raises InputError for what is no number.
    """
    text = "" if cell is None else str(cell).strip().removesuffix("%").replace(",", ".")
    try:
        return float(text) if text else None
    except ValueError:
        raise InputError(f"{column} is {cell!r}; allowed are numbers, or nothing for a label of your own.") from None

"""The annotated table of a distillation: its location, and its content, which a person may have corrected."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import MOST_NAMED, nearest, shorten
from fourshot.pipeline.rows.review_table import AS_WRITTEN, label_named
from fourshot.pipeline.tables.files import read_table
from fourshot.pipeline.tables.types import Table

LABEL, PROBABILITY, AGREEMENT, BY = "annotated_label", "annotated_probability", "annotated_agreement", "annotated_by"


def annotation_columns(labels: Sequence[str]) -> list[str]:
    """Return the columns added to a table: label, probability, agreement, annotator, and ``p_LABEL`` for each label."""
    return [LABEL, PROBABILITY, AGREEMENT, BY, *(f"p_{label}" for label in labels)]


def annotated_file(table_path: Path, folder: Path) -> Path:
    """Return the path of the annotated table in ``folder``: in the format of the input if CSV or TSV, else JSONL."""
    suffix = table_path.suffix.lower()
    return folder / f"annotated{suffix if suffix in ('.csv', '.tsv') else '.jsonl'}"


def read_annotated(out: Path, columns: Sequence[str]) -> Table:
    """Read an annotated table, which a person may have edited. Raises InputError if it lacks one of ``columns``."""
    table = read_table(out, AS_WRITTEN)
    if missing := [column for column in columns if column not in table.columns]:
        names = " and ".join(map(repr, missing))
        raise InputError(f"{out} no longer has the column {names}. Restore it, or remove the file to annotate again.")
    return table


def row_target(row: dict[str, Any], labels: Sequence[str]) -> tuple[tuple[float, ...], bool] | None:
    """Return the training target [num_labels] of a row, and whether its label is by a person; None if it is empty.

    A label that is not the most likely one, or has no probabilities, is by a person. The target is then that label
    alone. Raises InputError if the label is none of ``labels``, or a probability is not a number.
    """
    cell = "" if row.get(LABEL) is None else str(row[LABEL]).strip()
    label = label_named(cell, labels)
    if label is None:
        allowed = f"allowed are {shorten(labels, MOST_NAMED)}, or an empty cell to leave the row out."
        raise InputError(f"{LABEL} is {cell!r}; {allowed} {nearest(cell, labels)}".rstrip())
    if not label:
        return None
    shares = _teacher_shares(row, labels)
    if not shares or shares[labels.index(label)] < max(shares):
        return tuple(float(name == label) for name in labels), True
    total = sum(shares)
    return tuple(value / total for value in shares), False


def _teacher_shares(row: dict[str, Any], labels: Sequence[str]) -> list[float]:
    """Return the teacher's probabilities in a row, not normalised; [] unless all are present and valid.

    Raises InputError for a cell that is not a number.
    """
    shares = [_share(f"p_{name}", row.get(f"p_{name}")) for name in labels]
    known_shares = [share for share in shares if share is not None]
    is_known = len(known_shares) == len(labels) and 0 < sum(known_shares) < math.inf and min(known_shares) >= 0
    return known_shares if is_known else []


def _share(column: str, cell: Any) -> float | None:
    """Return a probability as written by a spreadsheet, with a decimal comma or per cent sign; None for an empty cell.

    The sign is only removed: per cent values are normalised later. Raises InputError if the cell is not a number.
    """
    if isinstance(cell, float):
        return cell
    text = "" if cell is None else str(cell).strip().removesuffix("%").replace(",", ".")
    try:
        return float(text) if text else None
    except ValueError:
        raise InputError(f"{column} is {cell!r}; allowed are numbers, or an empty cell for your own label.") from None

"""Check whether a file format can store the cells of a table, before its texts are annotated."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import shorten


def check_cells(
    out: Path,
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    types: Mapping[str, Any] = MappingProxyType({}),
    *,
    is_chosen: bool = True,
) -> None:
    """Raise InputError if the format of ``out`` cannot store the rows. ``types``: column -> pyarrow type, if known.

    In Parquet, each column has one type; CSV cannot store NUL characters, nor JSON Lines infinite numbers. Call this
    before a table is annotated, which may take hours. ``is_chosen``: the user chose ``out``, and may choose another.
    """
    other = out.with_suffix(".csv" if out.suffix.lower() == ".jsonl" else ".jsonl")
    remedy = f"Give --out {other}, or remove" if is_chosen else "Remove"
    if out.suffix.lower() in (".csv", ".tsv"):
        _check_nul(out, columns, rows, remedy)
    if out.suffix.lower() == ".jsonl":
        _check_infinite(out, columns, rows, remedy)
    if out.suffix.lower() != ".parquet":
        return
    import pyarrow
    import pyarrow.parquet

    values: dict[str, list[Any]] = {column: [] for column in columns}
    for row in rows:
        for column in columns:
            values[column].append(row.get(column))
    for column, cells in values.items():
        try:
            table = pyarrow.table({column: arrow_array(cells, types.get(column))})
            pyarrow.parquet.ParquetWriter(pyarrow.BufferOutputStream(), table.schema).close()
        except (pyarrow.ArrowException, OverflowError) as failure:
            kinds = shorten(sorted({type(cell).__name__ for cell in cells if cell is not None}))
            raise InputError(
                f"{out}: Parquet cannot store the column {column!r} ({kinds}): {str(failure).splitlines()[0]}. Nothing "
                f"was written. Give --out {out.with_suffix('.jsonl')} or a .csv, or give the column one type."
            ) from None


def arrow_array(cells: Sequence[Any], kind: Any = None) -> Any:
    """Return a column as a pyarrow array of type ``kind`` or, if that cannot hold its cells exactly, of their type."""
    import pyarrow

    if kind is not None:
        with suppress(pyarrow.ArrowException, OverflowError, TypeError, ValueError):
            array = pyarrow.array(cells, type=kind)
            if array.to_pylist() == list(cells):  # pyarrow rounds and truncates silently
                return array
    return pyarrow.array(cells)


def _check_nul(out: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], remedy: str) -> None:
    """Raise InputError for a NUL character, with which a CSV file could not be read again."""
    header = dict(zip(columns, columns, strict=True))
    for number, row in enumerate(chain([header], rows)):
        for column in columns:
            if isinstance(cell := row.get(column), str) and "\0" in cell:
                place = f"row {number} of the column {column!r}" if number else f"the name {column!r}"
                raise InputError(
                    f"{out}: CSV cannot store NUL characters, but {place} has one. Nothing was written. {remedy} them "
                    "from the table."
                )


def _check_infinite(out: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], remedy: str) -> None:
    """Raise InputError for an infinite number, which would be written as null. NaN may be: it is a missing value."""
    for number, row in enumerate(rows, start=1):
        if infinite := [column for column in columns if _is_infinite(row.get(column))]:
            raise InputError(
                f"{out}: JSON cannot store infinite numbers, but row {number} of the column {infinite[0]!r} has one. "
                f"Nothing was written. {remedy} it from the table."
            )


def _is_infinite(cell: Any) -> bool:
    if isinstance(cell, dict | list | tuple):
        return any(map(_is_infinite, cell.values() if isinstance(cell, dict) else cell))
    return isinstance(cell, float) and math.isinf(cell)

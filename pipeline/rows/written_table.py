"""Tables of texts, written with what is added beside their columns, in the format that a name says."""

import csv
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import msgspec

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import replaced_file
from fourshot.pipeline.rows.held_cells import arrow_array
from fourshot.pipeline.rows.text_table import TextTable, table_kind

WRITTEN = (".jsonl", ".csv", ".tsv", ".parquet")


def check_written(out: Path, columns: Sequence[str], more: Sequence[str]) -> None:
    """Raise InputError where ``out`` is there, is of no format that is written, or ``columns`` has one of ``more``."""
    if out.exists():
        raise InputError(f"{out} is there already; nothing was written. Give another --out, or remove it.")
    if out.suffix.lower() not in WRITTEN:
        raise InputError(f"cannot write a {out.suffix or 'nameless'} file ({out}); allowed are {', '.join(WRITTEN)}.")
    check_added(columns, more)


def check_added(columns: Sequence[str], more: Sequence[str]) -> None:
    """Raise InputError where ``columns`` has one of ``more``."""
    if clashes := [column for column in more if column in columns]:
        raise InputError(
            f"the table has a column {' and '.join(map(repr, clashes))}, which is what would be added. Rename it first."
        )


def write_table(
    out: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]], source: TextTable | None = None
) -> None:
    """Write ``rows`` in the format that the name of ``out`` says; the file appears whole or not at all.

    Rows are written as they come, but for Parquet: its columns have the types of ``source``, others that of all rows.
    CSV has the separator of ``source``, if that is CSV, and a byte-order mark if that was not UTF-8 without one, or was
    a spreadsheet: so the spreadsheet that wrote the one opens the other.
    Parquet alone holds bytes: elsewhere those that are texts of ``source`` are written as text, others as base64.
    """
    texts = (*source.fields, *source.text_columns) if source else ()
    kind = out.suffix.lower()
    is_alike = source is not None and kind == ".csv" == source.path.suffix.lower()
    with replaced_file(out) as staged:
        if kind == ".parquet":
            import pyarrow.parquet

            written, types = list(rows), source.column_types if source else {}
            cells = {column: [row.get(column) for row in written] for column in columns}
            table = pyarrow.table({name: arrow_array(of_it, types.get(name)) for name, of_it in cells.items()})
            pyarrow.parquet.write_table(table, staged)
        elif kind == ".jsonl":
            with staged.open("wb") as file:
                file.writelines(
                    msgspec.json.encode(_without_bytes(row, columns, texts), enc_hook=str) + b"\n" for row in rows
                )
        else:
            separator = source.separator if source and is_alike else "\t" if kind == ".tsv" else ","
            is_for_people = source and (
                source.encoding != "utf-8" if is_alike else table_kind(source.path) == "spreadsheet"
            )
            encoding = "utf-8-sig" if kind == ".csv" and is_for_people else "utf-8"
            with staged.open("w", encoding=encoding, newline="") as text_file:
                is_nameless = source is not None and source.numbers_rows
                # In tables with tabs quotes rarely quote: names in quotes say that these do.
                names = csv.writer(
                    _LineFeeds(text_file),
                    delimiter=separator,
                    quoting=csv.QUOTE_ALL if separator == "\t" else csv.QUOTE_MINIMAL,
                )
                names.writerow(["", *columns[1:]] if is_nameless else columns)
                writer = csv.writer(_LineFeeds(text_file), delimiter=separator)
                writer.writerows(_cells(_without_bytes(row, columns, texts)) for row in rows)


class _LineFeeds:
    """Takes lines of a CSV writer, and ends them with a line feed alone.

    Below Python 3.13 a writer quotes only those line ends in a cell that it ends lines with: it has to think of both.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")


def _without_bytes(row: dict[str, Any], columns: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """The cells of ``columns``, in this order."""
    cells = {column: row.get(column) for column in columns}
    for column, value in cells.items():
        if isinstance(value, bytes):
            cells[column] = (value if column in texts else b64encode(value)).decode()
    return cells


def _cells(row: dict[str, Any]) -> Iterator[Any]:
    for value in row.values():
        if isinstance(value, dict | list):
            value = msgspec.json.encode(value, enc_hook=str).decode()
        yield value.replace("\0", "") if isinstance(value, str) else value  # of what was added: see `held_cells`

"""Write tables of texts with added columns, in the format of the file's suffix."""

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
from fourshot.pipeline.tables.delimited import DELIMITERS

WRITTEN = (".jsonl", ".csv", ".tsv", ".parquet")


def check_written(out: Path, columns: Sequence[str], more: Sequence[str]) -> None:
    """Raise InputError if ``out`` exists, its format is not supported, or ``columns`` contains one of ``more``."""
    if out.exists():
        raise InputError(f"{out} already exists; nothing was written. Give another --out, or remove it.")
    if out.suffix.lower() not in WRITTEN:
        raise InputError(f"cannot write a {out.suffix or 'nameless'} file ({out}); allowed are {', '.join(WRITTEN)}.")
    check_added(columns, more)


def check_added(columns: Sequence[str], more: Sequence[str]) -> None:
    """Raise InputError if ``columns`` contains one of ``more``, the columns to be added."""
    if clashes := [column for column in more if column in columns]:
        raise InputError(
            f"the table already has a column {' and '.join(map(repr, clashes))}, which would be added. Rename it first."
        )


def write_table(
    out: Path,
    columns: Sequence[str],
    rows: Iterable[dict[str, Any]],
    source: TextTable | None = None,
    *,
    texts: Sequence[str] = (),
) -> None:
    """Write ``rows`` in the format of the suffix of ``out``; the file appears completely or not at all.

    Rows are written as they arrive, except for Parquet. There, columns have the type that they have in ``source``, or
    else that of all their cells. CSV has the separator of ``source``, if that is CSV too, and a line ``sep=`` if it
    cannot be detected.
    CSV has a byte-order mark if ``source`` is a spreadsheet, or CSV in anything but UTF-8 without a mark. The program
    that wrote ``source`` can then open it. Only Parquet can store bytes. In other formats, bytes are decoded in the
    columns ``texts``, by default those of ``source``, and written as base64 in others.
    """
    texts = texts or ((*source.fields, *source.text_columns) if source else ())
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
                if separator not in DELIMITERS:
                    text_file.write(f"sep={separator}\n")
                is_nameless = source is not None and source.has_row_numbers
                # In tab-separated tables, quotes rarely delimit cells; quoted names show that they do here.
                names = csv.writer(
                    _LineFeeds(text_file),
                    delimiter=separator,
                    quoting=csv.QUOTE_ALL if separator == "\t" else csv.QUOTE_MINIMAL,
                )
                names.writerow(["", *columns[1:]] if is_nameless else columns)
                writer = csv.writer(_LineFeeds(text_file), delimiter=separator)
                writer.writerows(_cells(_without_bytes(row, columns, texts)) for row in rows)


class _LineFeeds:
    """A file for a CSV writer, which ends its lines with a line feed only.

    Before Python 3.13, a writer only quotes the line ends that are in its own terminator. With CR LF, it quotes both.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")


def _without_bytes(row: dict[str, Any], columns: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """Return the cells of ``columns`` in this order, with bytes decoded in the columns ``texts``, else as base64."""
    cells = {column: row.get(column) for column in columns}
    for column, value in cells.items():
        if isinstance(value, bytes):
            cells[column] = (value if column in texts else b64encode(value)).decode()
    return cells


def _cells(row: dict[str, Any]) -> Iterator[Any]:
    for value in row.values():
        if isinstance(value, dict | list):
            value = msgspec.json.encode(value, enc_hook=str).decode()
        yield value.replace("\0", "") if isinstance(value, str) else value  # in added columns: see `held_cells`

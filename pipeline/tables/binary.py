"""Parquet and Arrow files through pyarrow, spreadsheets through calamine."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from fourshot.pipeline.faults import counted, note, shorten, warning
from fourshot.pipeline.tables.file_bytes import TableSource
from fourshot.pipeline.tables.grid import grid_rows
from fourshot.pipeline.tables.hidden_rows import hidden_rows, unstored_results
from fourshot.pipeline.tables.line_breaks import with_line_breaks
from fourshot.pipeline.tables.sheet_size import check_size
from fourshot.pipeline.tables.types import Item, TableError, TableScan

_BATCH_ROWS = 4096
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"  # Source: Arrow Columnar Format, "IPC Streaming Format"


def read_columnar(reading: TableScan, source: TableSource) -> Iterator[Item]:
    """Yield the rows of a Parquet or Arrow file, of which one batch is held at a time. Raises `TableError`.

    A Parquet batch has up to 4,096 rows. A compressed file is unpacked in memory.
    """
    import pyarrow

    reading.unit = "row"
    try:
        with source.open() as stream:
            schema, batches = _batches(reading, source, io.BytesIO(stream.read()) if source.packing else stream)
            names = schema.names
            if twice := [name for name, times in Counter(names).items() if times > 1]:
                raise TableError(f"the column {twice[0]!r} occurs twice.", "Rename or remove one.")
            reading.columns |= dict.fromkeys(names)
            for name, kind in zip(names, schema.types, strict=True):
                # The shards of a table may differ in the type of a column, which then has none.
                reading.column_types[name] = kind if reading.column_types.get(name, kind) == kind else None
            class_names = _class_names(reading, (schema.metadata or {}).get(b"huggingface", b"{}"))
            places = _add_class_names(reading, class_names)
            number = 0
            for batch in batches:
                batch.validate(full=True)  # damaged offsets would read beyond the end of a buffer
                for row in _rows(_with_shortest_floats(batch)):
                    number += 1
                    yield number, row | {name: _renumbered(row[name], places[name]) for name in places}
    # ValueError: undecodable bytes in a column of strings, or times outside Python's range.
    # MemoryError: damaged lengths.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as failure:
        problem = f"not a readable {source.kind.capitalize()} file: {str(failure) or type(failure).__name__}."
        raise TableError(problem, "Is the download complete?") from failure


def _rows(batch: Any) -> list[dict[str, Any]]:
    """Return the rows of ``batch``, with times as text if any is outside Python's range, as a database's "never" is."""
    import pyarrow

    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):
        for place, field in enumerate(batch.schema):
            if pyarrow.types.is_temporal(field.type):
                batch = batch.set_column(place, field.name, batch.column(place).cast(pyarrow.string()))
        return batch.to_pylist()


def _with_shortest_floats(batch: Any) -> Any:
    """Return ``batch`` with floats of 16 and 32 bits as the shortest decimals: 0.1, not 0.10000000149011612."""
    import pyarrow

    narrow = (pyarrow.float16(), pyarrow.float32())
    for place, field in enumerate(batch.schema):
        if field.type in narrow:
            shown = batch.column(place).cast(pyarrow.float32()).cast(pyarrow.string())
            batch = batch.set_column(place, field.name, shown.cast(pyarrow.float64()))
    return batch


def _class_names(reading: TableScan, written: bytes) -> dict[str, tuple[str, ...]]:
    """Return column -> names of its class numbers, also of those in lists, from the metadata that `datasets` writes.

    ``written`` is that metadata. If it cannot be read, ``reading`` gets a warning.
    """
    try:
        features = json.loads(written)
    except ValueError:
        features = {}
        problem = "the metadata that `datasets` wrote into it cannot be read: integers get no class names."
        reading.faults.append(warning(reading.path, problem, "If it has class names, write it again."))
    for key in ("info", "features"):
        features = features.get(key) if isinstance(features, dict) else None
    kinds = {column: kind.get("feature", kind) for column, kind in (features or {}).items() if isinstance(kind, dict)}
    names = {column: kind.get("names") for column, kind in kinds.items() if isinstance(kind, dict)}
    return {
        column: tuple(map(str, class_names)) for column, class_names in names.items() if isinstance(class_names, list)
    }


def _add_class_names(reading: TableScan, class_names: dict[str, tuple[str, ...]]) -> dict[str, list[int]]:
    """Add a file's class names to those of the table.

    Return, for each column that the file numbers differently, the table's number for each of the file's class numbers.
    """
    places = {}
    for column, names in class_names.items():
        of_table = tuple(dict.fromkeys((*reading.class_names.get(column, ()), *names)))
        if column not in reading.class_names:
            of_table = names
        elif of_table[: len(names)] != names:
            places[column] = [of_table.index(name) for name in names]
            problem = f"a file numbers the classes in the column {column!r} differently from those before it: "
            reading.faults.append(note(reading.path, f"{problem}its rows get its own names."))
        reading.class_names[column] = of_table
    return places


def _renumbered(value: Any, places: list[int]) -> Any:
    if isinstance(value, list):
        return [_renumbered(item, places) for item in value]
    return places[value] if isinstance(value, int) and 0 <= value < len(places) else value


def _batches(reading: TableScan, source: TableSource, stream: Any) -> tuple[Any, Iterator[Any]]:
    import pyarrow
    import pyarrow.parquet

    if source.kind == "parquet":
        # `ParquetFile`, because `read_table` would take a folder name such as label=x for a column of its own.
        file = pyarrow.parquet.ParquetFile(stream)
        return file.schema_arrow, file.iter_batches(_BATCH_ROWS)
    try:
        file = pyarrow.ipc.open_file(stream)
        return file.schema, (file.get_batch(place) for place in range(file.num_record_batches))
    except pyarrow.ArrowInvalid:  # a stream, as `datasets` writes it, has no index
        stream.seek(max(0, stream.seek(0, io.SEEK_END) - len(_STREAM_END)))
        has_end = stream.read() == _STREAM_END
        stream.seek(0)
        file = pyarrow.ipc.open_stream(stream)
        if not has_end:
            problem = "the stream has no end: rows may be missing."
            reading.faults.append(warning(reading.path, problem, "Is the download complete?"))
        return file.schema, iter(file)


def read_spreadsheet(reading: TableScan, source: TableSource) -> Iterator[Item]:
    """Yield the rows of the requested sheet, or else of the only non-empty one. Raises `TableError`."""
    import python_calamine

    reading.unit = "row"
    try:
        with source.open() as stream:
            content = stream.read()
        check_size(content)
        content = with_line_breaks(content)
        book = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(content))
        if (sheet_name := reading.settings.sheet) and sheet_name not in book.sheet_names:
            raise TableError(
                f"no sheet {sheet_name!r}; there is {shorten(map(repr, book.sheet_names))}.", "Name one of them."
            )
        sheets = {name: book.get_sheet_by_name(name) for name in ([sheet_name] if sheet_name else book.sheet_names)}
        filled = {name: rows for name, sheet in sheets.items() if any(map(any, rows := sheet.to_python(False)))}
    except (python_calamine.CalamineError, OSError, ValueError) as failure:
        raise TableError(f"not a readable spreadsheet: {failure}.", "Save it again, or save it as CSV.") from failure
    if len(filled) > 1:
        names = " and ".join(map(repr, filled))
        remedy = "Name one (--sheet NAME), or save it as CSV."
        if "--sheet" not in reading.settings.offers:
            remedy = "Save the right sheet as CSV."
        raise TableError(f"the sheets {names} are not empty.", remedy)
    for name, rows in filled.items():
        ranges = sorted(sheets[name].merged_cell_ranges or ())
        merged = [first[0] + 1 for first, last in ranges if last[0] > first[0]]
        if merged:
            problem = f"cells merged over several rows, of which only the first has the value (row {shorten(merged)})."
            reading.faults.append(warning(reading.path, problem, "Fill in the others."))
        if hidden := [number for number in hidden_rows(content, name) if 1 < number <= len(rows)]:
            problem = (
                f"{counted(len(hidden), 'row')} hidden in the sheet: read like the others (row {shorten(hidden)})."
            )
            reading.faults.append(warning(reading.path, problem, "Delete them if they should not be used."))
        if cells := unstored_results(content, name):
            problem = (
                f"{counted(len(cells), 'formula')} whose result is not in the file: read as empty ({shorten(cells)})."
            )
            remedy = "Open the file in a spreadsheet program, and save it there."
            reading.faults.append(warning(reading.path, problem, remedy))
        records = ((number, row) for number, row in enumerate(rows, start=1) if any(cell != "" for cell in row))
        for number, row in grid_rows(reading, records, ""):
            yield number, {name: _plain(cell) for name, cell in row.items()} if isinstance(row, dict) else row


def _plain(cell: Any) -> Any:
    """Return a cell as a spreadsheet shows it: a whole number, stored as a float, becomes an integer, a blank None."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return None if cell == "" else cell

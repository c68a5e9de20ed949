"""Read tables from disk: their columns, their rows, and the line of each row.

All tables are read here. Each row of a file is returned, or counted as left out, or an error with its line. If a file
is ambiguous, an error asks the user. `pipeline.rows.examples` interprets the values.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from fourshot.pipeline.faults import LeftOut, TaskFault, counted, error, raise_errors, shorten, warning
from fourshot.pipeline.tables.binary import read_columnar, read_spreadsheet
from fourshot.pipeline.tables.delimited import read_csv
from fourshot.pipeline.tables.file_bytes import DAMAGED, TableSource, find_source
from fourshot.pipeline.tables.json_tables import read_json
from fourshot.pipeline.tables.lines import read_lines
from fourshot.pipeline.tables.split_files import lone_shard, shards_of
from fourshot.pipeline.tables.types import AS_FOUND, Item, ReadSettings, Table, TableError, TableScan, UnreadRow
from fourshot.pipeline.task import DataSource

__all__ = [
    "AS_FOUND",
    "ReadSettings",
    "Table",
    "read_settings_of",
    "read_table",
    "scan_table",
    "stream_table",
    "table_warnings",
]

_READERS = {
    "json": read_json,
    "csv": read_csv,
    "text": read_lines,
    "parquet": read_columnar,
    "arrow": read_columnar,
    "spreadsheet": read_spreadsheet,
}
_ERRORS_SHOWN = 10  # per reason, if any row can be read; else 1, as a file of another kind has an error in each line
_WHY = {
    "broken_json": "that are not valid JSON",
    "no_object": "that are not JSON objects",
    "key_twice": "with a key that occurs twice",
    "half_pair": "with half of a surrogate pair",
    "beyond": "with a number that cannot be stored exactly",
    "field_count": "with more or fewer fields than the header",
    "repeated_header": "that repeat the names of the columns",
    "rule": "that only underline the names, as in Markdown",
}


def read_table(path: Path, settings: ReadSettings = AS_FOUND, *, may_be_empty: bool = False) -> Table:
    """Read a table. Raises `InputError` with all errors of the file. ``may_be_empty``: it need not have rows."""
    table, faults = scan_table(path, settings, may_be_empty=may_be_empty)
    raise_errors(faults)
    return table


def scan_table(
    path: Path, settings: ReadSettings = AS_FOUND, *, may_be_empty: bool = False
) -> tuple[Table, list[TaskFault]]:
    """Read what can be read. Return the table and all faults: errors, then notes, then warnings.

    Rows that were left out are among the warnings. A table with an error among its faults must not be used.
    ``may_be_empty``: a table with columns but without rows is not an error.
    """
    reading = TableScan(path=path, settings=settings)
    rows: dict[int, dict[str, Any]] = {}
    unread: dict[str, list[tuple[int, UnreadRow]]] = defaultdict(list)
    faults: list[TaskFault] = []
    try:
        for number, row in stream_table(reading):
            if isinstance(row, UnreadRow):
                unread[row.reason].append((number, row))
            else:
                rows[number] = row
    except TableError as failure:
        place = path if failure.line is None else f"{path}:{failure.line}"
        faults.append(error(place, failure.what, failure.remedy))
    faults += [fault for fault in reading.faults if fault.severity == "error"]
    left_out = []
    for reason, group in unread.items():
        if group[0][1].is_error and not settings.skip_broken:
            faults += _errors(reading, group, _ERRORS_SHOWN if rows else 1, is_all=not rows)
        else:
            lines = tuple(number for number, _ in group)
            left_out.append(LeftOut(reason=reason, what=_WHY[reason], count=len(group), lines=lines))
    if not (rows and reading.columns) and not faults and not (may_be_empty and reading.columns):
        nothing = " with content" if rows else ""
        gone = "".join(f" {counted(part.count, 'row')} {part.what} left out." for part in left_out)
        faults.append(error(path, f"the file has no rows{nothing}.{gone}", "Put at least one example in it."))
    faults += _chats(path, reading, rows)
    notices = tuple(fault for fault in reading.faults if fault.severity != "error")
    table = Table(
        path=str(path),
        columns=tuple(reading.columns),
        rows=rows,
        class_names=reading.class_names,
        unit=reading.unit,
        left_out=tuple(left_out),
        notices=notices,
    )
    return table, faults + [notice for notice in notices if notice.severity == "note"] + table_warnings(table)


def stream_table(reading: TableScan) -> Iterator[Item]:
    """Yield (line or row number, row) for every row, with `UnreadRow` for one that cannot be used.

    Once all rows have been read, ``reading`` has the properties and faults of the complete file. Raises `TableError`.
    Memory use is constant, but spreadsheets and JSON other than JSON Lines are held in memory.
    """
    try:
        is_file = reading.path.is_file()
        shards = [] if is_file else shards_of(reading.path)
    except OSError as failure:  # such as a name that is too long, or a folder without read permission
        raise TableError(f"cannot be opened: {failure.strerror}.", "Check the path.") from failure
    if not shards:
        if is_file and (lone := lone_shard(reading.path)):
            problem = f"one of {lone[1]} shards; the others are not read."
            reading.faults.append(warning(reading.path, problem, f"To read all, name {lone[0].name!r} instead."))
        yield from _stream_file(reading, reading.path)
        return
    rows, num_columns = 0, 0
    for shard in shards:
        for row in _stream_shard(reading, shard):
            rows += 1
            yield rows, row
        if num_columns and len(reading.columns) > num_columns:
            more = shorten(map(repr, list(reading.columns)[num_columns:]))
            reading.faults.append(warning(shard, f"has columns that shards before it lack: {more}."))
        num_columns = len(reading.columns)
    reading.unit = "row"


def _stream_shard(reading: TableScan, shard: Path) -> Iterator[dict[str, Any] | UnreadRow]:
    """Yield the rows of one of several shards. Unusable rows, errors and faults get their place in that shard."""
    before = len(reading.faults)
    try:
        for number, row in _stream_file(reading, shard):
            if isinstance(row, UnreadRow):
                row = msgspec.structs.replace(row, place=f"{shard}:{number}")
            yield row
    except TableError as failure:
        place = shard.name if failure.line is None else f"{shard.name}:{failure.line}"
        raise TableError(f"{place}: {failure.what}", failure.remedy) from failure
    whole = re.compile(rf"{re.escape(str(reading.path))}(?=:\d+$|$)")
    reading.faults[before:] = [
        msgspec.structs.replace(fault, where=whole.sub(lambda _: str(shard), fault.where))
        for fault in reading.faults[before:]
    ]


def _stream_file(reading: TableScan, path: Path) -> Iterator[Item]:
    source = find_source(path)
    reading.faults += _unused(reading.settings, source)
    try:
        yield from _READERS[source.kind](reading, source)
    except DAMAGED as failure:
        problem = "cannot be unpacked" if source.packing else "cannot be read"
        raise TableError(f"{problem}: {failure}.", "Is the download complete?") from failure


def _unused(settings: ReadSettings, source: TableSource) -> list[TaskFault]:
    """Return a warning for each setting that has no effect on this kind of file."""
    unused = {
        "an encoding": settings.encoding and source.kind not in ("csv", "json", "text"),
        "no header": settings.header is False and source.kind not in ("csv", "spreadsheet"),
        "a sheet": settings.sheet and source.kind != "spreadsheet",
    }
    return [
        warning(source.path, f"{setting} was given, but has no effect on a file of this kind ({source.kind}).")
        for setting, is_unused in unused.items()
        if is_unused
    ]


def read_settings_of(source: DataSource) -> ReadSettings:
    """Return how to read the files of a task."""
    offers = tuple(option for option in AS_FOUND.offers if option != "--sheet")  # a task file has no key for it
    return ReadSettings(encoding=source.encoding, header=source.header, offers=offers)


def _errors(reading: TableScan, unread: list[tuple[int, UnreadRow]], most: int, is_all: bool) -> list[TaskFault]:
    """Return errors for the first ``most`` rows that cannot be read, and one that counts the others.

    ``is_all``: no row of the table can be read, so leaving them out is not suggested.
    """
    faults = [error(row.place or f"{reading.path}:{number}", row.what) for number, row in unread[:most]]
    if rest := len(unread) - len(faults):
        faults.append(error(reading.path, f"{counted(rest, 'more row')} {_WHY[unread[0][1].reason]}."))
    leave_out = " Or leave such rows out: fourshot tasks new --skip-broken." * (
        "--skip-broken" in reading.settings.offers and not is_all
    )
    remedy = f"{unread[0][1].remedy}{leave_out}".strip()
    return [*faults[:-1], msgspec.structs.replace(faults[-1], remedy=remedy)]


def table_warnings(table: Table) -> list[TaskFault]:
    """Return the warnings about ambiguities of a table's file, and about rows that were left out."""
    problems = (
        f"{counted(part.count, 'row')} {part.what} left out ({table.unit} {shorten(part.lines)})."
        for part in table.left_out
    )
    return [notice for notice in table.notices if notice.severity == "warning"] + [
        warning(table.path, problem) for problem in problems
    ]


def _chats(path: Path, reading: TableScan, rows: dict[int, dict[str, Any]]) -> list[TaskFault]:
    """Return an error with the required form of a row if the rows are chats for fine-tuning; else an empty list."""
    row = next(iter(rows.values()), {})
    chats = [name for name, value in row.items() if _is_chat(value)]
    if not chats or len(row.keys() - chats) > 1:
        return []
    texts = [value for turn in row[chats[0]] for key, value in turn.items() if key not in _TURN]
    return [
        error(
            path,
            f"its rows are chats ({chats[0]!r}), written for another trainer; here, a row is a text and a label.",
            f'Write each as {{"text": ..., "label": ...}}. The first has the turns {shorten(map(repr, texts), 3)}.',
        )
    ]


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(t, dict) and _TURN & t.keys() for t in value)


_TURN = {"role", "from"}

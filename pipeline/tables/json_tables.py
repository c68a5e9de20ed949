"""Read tables in JSON: one row per line, an array, concatenated objects, or the columns of a data frame."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from fourshot.pipeline.faults import clipped, note, shorten
from fourshot.pipeline.tables.file_bytes import TableSource
from fourshot.pipeline.tables.text import check_text
from fourshot.pipeline.tables.types import Item, TableError, TableScan, UnreadRow

_SOME_DIGIT = re.compile(r"-?[0.]*[1-9]")
_BETWEEN = re.compile(r"[\s,\ufeff]*")
_JSON_LINES = (".jsonl", ".ndjson")
_LINES_TRIED = 20  # if one of these is an object by itself, a file with a broken first line is JSON Lines
_WAYS = (
    'Write one object per row, {"text": "...", "label": "..."}, each on a line of its own or all in one array '
    '(pandas: frame.to_json("table.jsonl", orient="records", lines=True)).'
)


def read_json(reading: TableScan, source: TableSource) -> Iterator[Item]:
    """Yield the rows of a JSON file. JSON Lines are streamed, other forms are held in memory. Raises `TableError`."""
    text = check_text(reading, source)
    with text.open() as stream:
        by_line = _is_by_line(stream, is_named_so=source.name.lower().endswith(_JSON_LINES))
    if not by_line:
        with text.open() as stream:
            document = stream.read()
        try:
            values = list(_values(document))
        except TableError:
            # If a later line is an object by itself, this is JSON Lines with a broken first line.
            later = map(_Decoder().read, document.split("\n")[1:_LINES_TRIED])
            if document.lstrip().startswith("[") or not any(isinstance(row, dict) for row in later):
                raise
            by_line = True
    if by_line:
        with text.open() as stream:
            yield from _with_columns(reading, _lines(stream))
        return
    reading.unit = "row"
    if len(values) == 1 and isinstance(values[0], dict) and not document.lstrip().startswith("["):
        values = _table_in(reading, values[0])
    yield from _with_columns(reading, enumerate(map(_object, values), start=1))


def _with_columns(reading: TableScan, items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items unchanged, and add their keys to the columns of ``reading``."""
    for number, row in items:
        if isinstance(row, dict) and not row.keys() <= reading.columns.keys():
            reading.columns |= dict.fromkeys(row)
        yield number, row


def _is_by_line(stream: TextIO, *, is_named_so: bool) -> bool:
    """Return whether the file is JSON Lines. A single object may be a row, or hold the table in one of its values.

    ``is_named_so``: its suffix is that of JSON Lines. A single object that may hold a table is then a row if one of its
    values is a string of two or more words.
    """
    lines = (line for line in stream if line.strip())
    row = _Decoder().read(next(lines, "{}"))
    if not isinstance(row, dict) or next(lines, None) is not None or not _holds_table(row):
        return isinstance(row, dict)
    return is_named_so and any(isinstance(value, str) and len(value.split()) > 1 for value in row.values())


def _lines(stream: TextIO) -> Iterator[Item]:
    decoder = _Decoder()
    # Not `splitlines`: that also splits at characters which may stand unescaped inside a JSON string (U+2028, U+0085).
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield number, _object(decoder.read(line.strip("\ufeff\n")))


_KINDS = {type(None): "null", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}


def _object(row: Any) -> dict[str, Any] | UnreadRow:
    if isinstance(row, dict | UnreadRow):
        return row
    problem = f"got a JSON {_KINDS.get(type(row), 'value')}, each row must be an object."
    return UnreadRow("no_object", problem, 'Write it as {"text": "...", "label": "..."}.')


class _Decoder:
    """Python's decoder, which also rejects duplicate keys, lone surrogates, and numbers that a double cannot hold."""

    def __init__(self) -> None:
        self._again: list[str] = []
        self._beyond: list[str] = []  # numbers that are not 0, and too large or too small for a double
        self._json = json.JSONDecoder(object_pairs_hook=self._build, parse_float=self._number)

    def read(self, line: str) -> Any:
        """Return the single value in a line, or `UnreadRow` if it has none that can be used."""
        self._forget()
        try:
            row = self._json.decode(line)
        except json.JSONDecodeError as failure:
            problem = f"not valid JSON: {failure.msg} (column {failure.colno})."
            return UnreadRow("broken_json", problem, "Write one JSON object per line.")
        except (ValueError, RecursionError) as failure:  # thousands of digits or nested brackets
            return UnreadRow("broken_json", f"JSON that cannot be read: {failure}.")
        return self._checked(row, line)

    def read_at(self, text: str, place: int) -> tuple[Any, int]:
        """Return the value that begins at ``place`` and its end. Raises `TableError` for invalid JSON.

        The value is `UnreadRow` if it cannot be used.
        """
        self._forget()
        try:
            value, end = self._json.raw_decode(text, place)
        except json.JSONDecodeError as failure:
            problem = f"not valid JSON: {failure.msg} (column {failure.colno})."
            raise TableError(problem, _WAYS, failure.lineno) from failure
        except (ValueError, RecursionError) as failure:
            raise TableError(f"JSON that cannot be read: {failure}.", _WAYS, text.count("\n", 0, place) + 1) from None
        return self._checked(value, text[place:end]), end

    def _forget(self) -> None:
        self._again.clear()
        self._beyond.clear()

    def _number(self, digits: str) -> float:
        number = float(digits)
        if math.isinf(number) or (not number and _SOME_DIGIT.match(digits)):
            self._beyond.append(digits)
        return number

    def _build(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) != len(pairs):
            self._again.extend(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return row

    def _checked(self, row: Any, source: str) -> Any:
        if self._again:
            return UnreadRow("key_twice", f"the key {self._again[0]!r} occurs twice.", "Remove one.")
        if self._beyond:
            problem = f"the number {clipped(self._beyond[0], 30)} cannot be stored exactly, and would be changed."
            return UnreadRow("beyond", problem, "Write it as a string.")
        if "\\u" in source:
            try:
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                return UnreadRow("half_pair", "half of a surrogate pair (\\ud800 to \\udfff).", "Write the whole pair.")
        return row


def _values(text: str) -> Iterator[Any]:
    """Yield the concatenated values in a text, or the elements of its array. Raises `TableError`."""
    decoder = _Decoder()
    place, is_open = 0, False
    while True:
        place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # it also matches the empty string
        if place == len(text):
            if is_open:
                raise TableError("the JSON array is not closed: the end of the file is missing.", "Write it again.")
            return
        if text[place] == ("]" if is_open else "["):
            is_open, place = not is_open, place + 1
        else:
            value, place = decoder.read_at(text, place)
            yield value


def _holds_table(row: dict[str, Any]) -> bool:
    values = list(row.values())
    return bool(values) and (
        any(isinstance(value, list) and value and isinstance(value[0], dict) for value in values)
        or (len(values) > 1 and all(isinstance(value, dict | list) for value in values))
    )


def _table_in(reading: TableScan, document: dict[str, Any]) -> list[Any]:
    """Return the rows in a file's single object. Raises `TableError` if it is unclear where they are."""
    values = list(document.values())
    if not _holds_table(document):
        return [document]
    if all(isinstance(value, list) for value in values) and len(values) > 1 and len({len(v) for v in values}) == 1:
        return [dict(zip(document, cells, strict=True)) for cells in zip(*values, strict=True)]
    if all(isinstance(value, dict) for value in values) and len({tuple(value) for value in values}) == 1:
        inner = list(values[0])
        if inner and all(key.isdigit() for key in inner):  # pandas: each value is a column, keyed by row
            return [{column: cells[key] for column, cells in document.items()} for key in inner]
        if all(key.isdigit() for key in document):  # pandas, orient="index"
            return values
    tables = [key for key, value in document.items() if isinstance(value, list) and _all_objects(value)]
    if len(tables) != 1:
        remedy = _WAYS
        if all(isinstance(value, list) and all(isinstance(cell, str) for cell in value) for value in values):
            remedy = 'If each key is a class with its texts, write each text as {"text": "...", "label": "..."}.'
        raise TableError(f"one JSON object with {shorten(map(repr, document))}: which of them are the rows?", remedy)
    beside = [repr(key) for key in document if key != tables[0]]
    also = f"; {shorten(beside)} is not read" if beside else ""
    reading.faults.append(note(reading.path, f"the rows are those of {tables[0]!r}{also}."))
    rows: list[Any] = document[tables[0]]
    return rows


def _all_objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)

"""Tables on disk and on the hub, read as they are: columns, rows, and the line each row came from.

A broken file gives all its faults at once, each with ``file:line``. What the values mean, `pipeline.tasks.tables` says.
Importing this module loads neither torch, pyarrow nor datasets.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.tasks.faults import Fault, errors_in

EXTENSIONS = (".jsonl", ".csv", ".tsv", ".parquet")
DELIMITERS = ",;\t|"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows as they were read, in file order."""

    path: str
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    lines: list[int]  # of each row: 1-based line in the file, or row number where there are no lines (Parquet, hub)
    class_names: dict[
        str, tuple[str, ...]
    ] = {}  # per column, what the integers in it stand for, where the data says so


def read_table(path: Path) -> Table:
    """Read a table; raises `InputError` with all faults of the file."""
    table, faults = scan_table(path)
    if errors := errors_in(faults):
        raise InputError("\n".join(str(fault) for fault in errors))
    return table


def scan_table(path: Path) -> tuple[Table, list[Fault]]:
    """Read what can be read, and list what cannot. A table with an error among its faults must not be used."""
    empty = Table(path=str(path), columns=(), rows=[], lines=[])
    if not path.is_file():
        return empty, [_error(path, "no such file.", "Check the path.")]
    if path.suffix not in EXTENSIONS:
        kinds = ", ".join(EXTENSIONS)
        return empty, [_error(path, f"cannot read a {path.suffix or 'nameless'} file; allowed are {kinds}.")]
    if path.suffix == ".parquet":
        return _scan_parquet(path)
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")  # spreadsheets like to write a byte-order mark
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{raw[error.start]:02x} is not valid UTF-8."
        return empty, [_error(path, what, "Save the file as UTF-8.", line)]
    table, faults = _scan_jsonl(path, text) if path.suffix == ".jsonl" else _scan_csv(path, text)
    if not table.rows and not faults:
        faults.append(_error(path, "the file has no rows.", "Put at least one example in it."))
    return table, faults


def read_hub(name: str, config: str, split: str) -> Table:
    """Read one split of a hub data set through `datasets`. Raises `InputError` with the way round the hub."""
    import datasets

    way_out = "To work without the hub, give a folder with train and test files: --data FOLDER."
    try:
        try:
            loaded = datasets.load_dataset(name, config or None, split=split)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            # The hub keeps a converted copy of data sets that still carry a loading script, under this revision.
            loaded = datasets.load_dataset(name, config or None, split=split, revision="refs/convert/parquet")
    except Exception as error:  # the hub client raises dozens of kinds; all mean that the data is not to be had
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"cannot load split {split!r} of data set {name!r} from the hub: {first_line}\n{way_out}"
        ) from error
    columns = tuple(loaded.column_names)
    named = {
        column: tuple(feature.names)
        for column, feature in loaded.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    rows = [dict(row) for row in loaded]
    lines = list(range(1, len(rows) + 1))
    return Table(path=f"{name}[{split}]", columns=columns, rows=rows, lines=lines, class_names=named)


def _scan_jsonl(path: Path, text: str) -> tuple[Table, list[Fault]]:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    columns: dict[str, None] = {}
    faults: list[Fault] = []
    # Not `splitlines`: that also splits at characters which may stand unescaped inside a JSON string (U+2028, U+0085).
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_refuse_twice)
        except json.JSONDecodeError as error:
            what = f"not valid JSON: {error.msg} (column {error.colno})."
            faults.append(_error(path, what, "Write one JSON object per line.", number))
            continue
        except _TwiceError as error:
            faults.append(_error(path, f"the key {error.key!r} stands there twice.", "Remove one.", number))
            continue
        if not isinstance(row, dict):
            what = f"got a JSON {type(row).__name__}, each line must be an object."
            faults.append(_error(path, what, 'Write it as {"text": "...", "label": "..."}.', number))
            continue
        if "\\u" in line and not _is_unicode(row):
            faults.append(
                _error(path, "half of a surrogate pair (\\ud800 to \\udfff).", "Write the whole one.", number)
            )
            continue
        columns.update(dict.fromkeys(row))
        rows.append(row)
        lines.append(number)
    return Table(path=str(path), columns=tuple(columns), rows=rows, lines=lines), faults


def _scan_csv(path: Path, text: str) -> tuple[Table, list[Fault]]:
    header_line = text.split("\n", 1)[0]
    counts = {mark: len(next(csv.reader([header_line], delimiter=mark), [])) for mark in DELIMITERS}
    delimiter = "\t" if path.suffix == ".tsv" else max(counts, key=lambda mark: counts[mark])
    faults: list[Fault] = []
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    columns: tuple[str, ...] = ()
    try:
        for number, fields in _records(text, delimiter):
            if not columns:
                columns = tuple(field.strip() for field in fields)
                faults += [
                    _error(path, f"the column {name!r} stands there {times} times.", "Rename or remove one.", number)
                    for name, times in Counter(columns).items()
                    if times > 1
                ]
            elif len(fields) != len(columns):
                what = f"{len(fields)} fields where the header has {len(columns)} (separator {delimiter!r})."
                faults.append(_error(path, what, 'Put texts that hold the separator in "double quotes".', number))
            else:
                rows.append(dict(zip(columns, fields, strict=True)))
                lines.append(number)
    except csv.Error as error:
        faults.append(_error(path, f"not a readable table: {error}."))
    return Table(path=str(path), columns=columns, rows=rows, lines=lines), faults


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which the record starts, its fields); blank lines are skipped."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    start = 1
    for fields in reader:
        if fields:
            yield start, fields
        start = reader.line_num + 1


def _scan_parquet(path: Path) -> tuple[Table, list[Fault]]:
    import pyarrow
    import pyarrow.parquet

    empty = Table(path=str(path), columns=(), rows=[], lines=[])
    try:
        # `ParquetFile`, because `read_table` would take a folder name such as label=x for a column of its own.
        loaded = pyarrow.parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        return empty, [_error(path, f"not a readable Parquet file: {error}.")]
    columns = tuple(loaded.column_names)
    twice = [name for name, times in Counter(columns).items() if times > 1]
    if twice:
        return empty, [
            _error(path, f"the column {name!r} stands there twice.", "Rename or remove one.") for name in twice
        ]
    rows = loaded.to_pylist()
    if not rows:
        return empty, [_error(path, "the file has no rows.", "Put at least one example in it.")]
    features = json.loads((loaded.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    named = {column: tuple(feature["names"]) for column, feature in features.items() if "names" in feature}
    lines = list(range(1, len(rows) + 1))
    return Table(path=str(path), columns=columns, rows=rows, lines=lines, class_names=named), []


class _TwiceError(ValueError):
    def __init__(self, key: str) -> None:
        self.key = key


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _TwiceError(next(key for key, times in counts.items() if times > 1))
    return row


def _is_unicode(row: dict[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _error(path: Path, what: str, remedy: str = "", line: int = 0) -> Fault:
    return Fault(severity="error", where=f"{path}:{line}" if line else str(path), what=what, remedy=remedy)

"""Tables on disk and on the hub, read as they are: columns, rows, and the line each row came from.

A broken file gives all its faults at once, each with ``file:line``. What the values mean, `pipeline.tasks.tables` says.
"""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.tasks.faults import Fault, LeftOut, error, raise_errors, read_text

EXTENSIONS = (".jsonl", ".csv", ".tsv", ".parquet")
DELIMITERS = ",;\t|"


class ReadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a file does not say of itself for sure."""

    encoding: str = ""  # "" means: by the byte-order mark, else UTF-8
    header: bool | None = (
        None  # False: no line of column names, they are "1", "2", ...; None: a doubtful one is asked for
    )
    skip_broken: bool = False  # rows that cannot be read are left out and counted; else they are errors


AS_FOUND = ReadSettings()


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows as they were read, in file order. Every row of the file is in ``rows`` or counted in ``left_out``."""

    path: str
    columns: tuple[str, ...]
    rows: dict[int, dict[str, Any]]  # by 1-based line, or by row number where there are no lines (Parquet, hub)
    class_names: dict[str, tuple[str, ...]] = {}  # per column, what its integers stand for, where the data says so
    unit: Literal["line", "row"] = "line"  # what the keys of ``rows`` count
    left_out: tuple[LeftOut, ...] = ()
    notices: tuple[Fault, ...] = ()  # warnings and notes: how the file was understood where that was not plain


def read_table(path: Path, settings: ReadSettings = AS_FOUND) -> Table:
    """Read a table; raises `InputError` with all errors of the file."""
    table, faults = scan_table(path, settings)
    raise_errors(faults)
    return table


def scan_table(path: Path, settings: ReadSettings = AS_FOUND) -> tuple[Table, list[Fault]]:
    """Read what can be read; and every fault, errors first, then the table's notices and what was left out.

    A table with an error among its faults must not be used.
    """
    empty = Table(path=str(path), columns=(), rows={})
    if not path.is_file():
        return empty, [error(path, "no such file.", "Check the path.")]
    if path.suffix not in EXTENSIONS:
        kinds = ", ".join(EXTENSIONS)
        return empty, [error(path, f"cannot read a {path.suffix or 'nameless'} file; allowed are {kinds}.")]
    if path.suffix == ".parquet":
        table, faults = _scan_parquet(path)
    else:
        text, faults = read_text(path)
        if faults:
            return empty, faults
        table, faults = _scan_jsonl(path, text) if path.suffix == ".jsonl" else _scan_csv(path, text)
    if not table.rows and not faults:
        faults.append(error(path, "the file has no rows.", "Put at least one example in it."))
    return table, faults


def read_hub(name: str, config: str, split: str) -> Table:
    """Read one split of a hub data set through `datasets`. Raises `InputError` with the way round the hub."""
    import datasets

    try:
        try:
            loaded = datasets.load_dataset(name, config or None, split=split)
        except RuntimeError as failure:
            if "scripts are no longer supported" not in str(failure):
                raise
            # The hub keeps a converted copy of data sets that still carry a loading script, under this revision.
            loaded = datasets.load_dataset(name, config or None, split=split, revision="refs/convert/parquet")
    except Exception as failure:  # the hub client raises dozens of kinds; all mean that the data is not to be had
        first_line = (str(failure).splitlines() or [type(failure).__name__])[0]
        raise InputError(
            f"cannot load split {split!r} of data set {name!r} from the hub: {first_line}\n{_remedy(failure, name)}"
            "To work without the hub, give a folder with train and test files: --data FOLDER."
        ) from failure
    return Table(
        path=f"{name}[{split}]",
        columns=tuple(loaded.column_names),
        rows={number: dict(row) for number, row in enumerate(loaded, start=1)},
        class_names={
            column: tuple(feature.names)
            for column, feature in loaded.features.items()
            if isinstance(feature, datasets.ClassLabel)
        },
    )


def _remedy(failure: Exception, name: str) -> str:
    """What to do where a data set cannot be had, as a line; "" where the library's own words say it."""
    from datasets.exceptions import DatasetNotFoundError

    if isinstance(failure, DatasetNotFoundError) and "gated" in str(failure):
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return f"Accept its terms on {endpoint}/datasets/{name}, and set HF_TOKEN or log in with hf auth login.\n"
    if isinstance(failure, DatasetNotFoundError):
        return "Check the spelling of $.data.hub (owner/name); for a private one, set HF_TOKEN or log in.\n"
    if "OfflineModeIsEnabled" in str(failure):
        return "HF_HUB_OFFLINE is set, and no copy is on this machine. Unset it to fetch one.\n"
    return ""


def _scan_jsonl(path: Path, text: str) -> tuple[Table, list[Fault]]:
    rows: dict[int, dict[str, Any]] = {}
    faults: list[Fault] = []
    # Not `splitlines`: that also splits at characters which may stand unescaped inside a JSON string (U+2028, U+0085).
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows[number] = _read_object(line)
            except _LineError as failure:
                faults.append(error(f"{path}:{number}", *failure.args))
    columns = dict.fromkeys(key for row in rows.values() for key in row)
    return Table(path=str(path), columns=tuple(columns), rows=rows), faults


class _LineError(ValueError):
    """What is wrong with a line, and what to do."""


def _read_object(line: str) -> dict[str, Any]:
    """The JSON object in a line. Raises _LineError."""
    try:
        row = json.loads(line, object_pairs_hook=_refuse_twice)
    except json.JSONDecodeError as failure:
        what = f"not valid JSON: {failure.msg} (column {failure.colno})."
        raise _LineError(what, "Write one JSON object per line.") from failure
    if not isinstance(row, dict):
        what = f"got a JSON {type(row).__name__}, each line must be an object."
        raise _LineError(what, 'Write it as {"text": "...", "label": "..."}.')
    try:
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as failure:
        raise _LineError("half of a surrogate pair (\\ud800 to \\udfff).", "Write the whole one.") from failure
    return row


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise _LineError(f"the key {key!r} stands there twice.", "Remove one.")
    return row


def _scan_csv(path: Path, text: str) -> tuple[Table, list[Fault]]:
    header_line = text.split("\n", 1)[0]
    counts = {mark: len(next(csv.reader([header_line], delimiter=mark), [])) for mark in DELIMITERS}
    delimiter = "\t" if path.suffix == ".tsv" else max(counts, key=lambda mark: counts[mark])
    faults: list[Fault] = []
    rows: dict[int, dict[str, Any]] = {}
    columns: tuple[str, ...] = ()
    try:
        for number, fields in _records(text, delimiter):
            if not columns:
                columns = tuple(field.strip() for field in fields)
                for name, times in Counter(columns).items():
                    if times > 1:
                        what = f"the column {name!r} stands there {times} times."
                        faults.append(error(f"{path}:{number}", what, "Rename or remove one."))
            elif len(fields) != len(columns):
                what = f"{len(fields)} fields where the header has {len(columns)} (separator {delimiter!r})."
                faults.append(error(f"{path}:{number}", what, 'Put texts that hold the separator in "double quotes".'))
            else:
                rows[number] = dict(zip(columns, fields, strict=True))
    except csv.Error as failure:
        faults.append(error(path, f"not a readable table: {failure}."))
    return Table(path=str(path), columns=columns, rows=rows), faults


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

    empty = Table(path=str(path), columns=(), rows={})
    try:
        # `ParquetFile`, because `read_table` would take a folder name such as label=x for a column of its own.
        loaded = pyarrow.parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as failure:
        return empty, [error(path, f"not a readable Parquet file: {failure}.")]
    columns = tuple(loaded.column_names)
    if twice := [name for name, times in Counter(columns).items() if times > 1]:
        what = "the column {!r} stands there twice."
        return empty, [error(path, what.format(name), "Rename or remove one.") for name in twice]
    features = json.loads((loaded.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    class_names = {column: tuple(feature["names"]) for column, feature in features.items() if "names" in feature}
    rows = dict(enumerate(loaded.to_pylist(), start=1))
    return Table(path=str(path), columns=columns, rows=rows, class_names=class_names), []

"""Of every file, each row comes back as it was written, or is counted as left out, or the file is refused.

FOURSHOT_EXAMPLES=10000 tries as many files of each kind; a hundred, always the same, are tried otherwise.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fourshot.pipeline.faults import errors_in
from fourshot.pipeline.tables.file_bytes import KINDS, PACKINGS
from fourshot.pipeline.tables.files import ReadSettings, Table, scan_table, stream_table
from fourshot.pipeline.tables.types import TableError, TableScan, UnreadRow

EXAMPLES = int(os.environ.get("FOURSHOT_EXAMPLES", "0"))
MADE = settings(
    max_examples=EXAMPLES or 100,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # of a busy machine
)
Rows = list[dict[str, Any]]
PIECES = ['"', '""', "'", ",", ";", "\t", "|", "\\", "\n", "\r\n", " ", "a", "text", "label", "é"]
PIECES += ["\u2028", "\x85", "\x1a", "😀"]
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(CHARACTERS, max_size=12)
ROWS = st.lists(st.fixed_dictionaries({"text": TEXTS, "label": st.sampled_from(["a", "b", "Sci/Tech"])}), min_size=1)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": partial(gzip.compress, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def scan(name: str, content: bytes, read: ReadSettings) -> tuple[Table, bool]:
    """The table, and whether it is refused; what is said of it must be whole."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        table, faults = scan_table(path, read)
        assert all(fault.what and fault.where.startswith(str(path)) for fault in faults)
        assert all(part.count == len(part.lines) > 0 and part.what for part in table.left_out)
        reading = TableScan(path=path, settings=read)
        try:
            assert sum(not isinstance(row, UnreadRow) for _, row in stream_table(reading)) == len(table.rows)
        except TableError:
            assert errors_in(faults)
        return table, bool(errors_in(faults))


def left_out(table: Table) -> int:
    return sum(part.count for part in table.left_out)


def as_csv(rows: Rows, **dialect: Any) -> str:
    out = io.StringIO(newline="")
    table = csv.writer(out, **dialect)
    table.writerow(("text", "label"))
    table.writerows((row["text"], row["label"]) for row in rows)
    return out.getvalue()


JSON: list[Callable[[Rows], str]] = [
    lambda rows: "\n".join(map(json.dumps, rows)),
    lambda rows: "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
    lambda rows: json.dumps(rows),
    lambda rows: json.dumps(rows, indent=2, ensure_ascii=False),
    lambda rows: "".join(map(json.dumps, rows)),
    lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows),
    lambda rows: json.dumps({"data": rows}),
]


@MADE
@given(
    ROWS,
    st.sampled_from(JSON),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(list(PACKERS)),
    st.sampled_from([".json", ".jsonl", ".NDJSON"]),
)
def test_json_comes_back_as_it_was_written(
    rows: Rows, write: Callable[[Rows], str], encoding: str, packing: str, ending: str
) -> None:
    content = PACKERS[packing](write(rows).encode(encoding))
    table, refused = scan("t" + ending + packing, content, ReadSettings())
    assert not refused and list(table.rows.values()) == rows


@MADE
@given(
    ROWS,
    st.sampled_from(",;|\t"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.booleans(),
)
def test_csv_comes_back_as_it_was_written_or_is_asked_about(
    rows: Rows, delimiter: str, end: str, quoting: int, encoding: str, has_separator_line: bool
) -> None:
    if delimiter == "\t":  # tabs and lines in quotes, beside tabs that end cells, can be read in two ways
        rows = [{**row, "text": row["text"].replace("\t", " ")} for row in rows]
    # Python's writer does not quote a CR alone, which ends a line for every reader.
    rows = [{**row, "text": re.sub(r"\r(?!\n)", "", row["text"])} for row in rows]
    text = as_csv(rows, delimiter=delimiter, lineterminator=end, quoting=quoting)
    head = f"sep={delimiter}\n" if has_separator_line else ""
    table, refused = scan("t.csv", (head + text).encode(encoding), ReadSettings(header=True))
    kept = [row for row in rows if row != {"text": "text", "label": "label"}]
    if not refused:
        assert list(table.rows.values()) == kept
    assert refused or len(kept) + left_out(table) == len(rows)


@MADE
@given(st.lists(TEXTS.map(lambda text: " ".join(text.split("\t"))), min_size=1), st.booleans())
def test_tabs_without_quoting_give_a_row_for_each_line(texts: list[str], header: bool) -> None:
    lines = [" ".join(text.splitlines()) + "\ta" for text in texts]
    content = "\n".join(["text\tlabel"] * header + lines)
    table, refused = scan("t.tsv", content.encode(), ReadSettings(header=header))
    assert not refused
    assert len(table.rows) + left_out(table) == len(texts)
    letters = [row["text" if header else "1"].replace('"', "") for row in table.rows.values()]
    if not header:
        lines[0] = lines[0].removeprefix("\ufeff")  # there it is a byte-order mark
    assert letters == [line[:-2].replace('"', "") for line in lines if line != "text\tlabel"]


@MADE
@given(st.lists(st.sampled_from(['{"text": "a"}', "{", "[1]", '{"a": 1, "a": 2}', '{"text": "\\ud800"}', "x", ""])))
def test_lines_of_json_are_rows_or_counted(lines: list[str]) -> None:
    lines = ['{"text": "one", "label": "a"}', '{"text": "two", "label": "b"}', *lines]
    content = "\n".join(lines).encode()
    table, refused = scan("t.jsonl", content, ReadSettings(skip_broken=True))
    assert not refused
    assert len(table.rows) + left_out(table) == sum(map(bool, lines))
    strict, refused = scan("t.jsonl", content, ReadSettings())
    assert refused == bool(left_out(table)) and strict.left_out == ()


MARKS = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"PK\x03\x04", b"\x1f\x8b\x08", b"PAR1", b"ARROW1"]
MARKS += [b"\xd0\xcf\x11\xe0", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"sep=;\n", b'"sep=,"\r\n', b"text,label\n"]
TOKENS = [part.encode() for part in PIECES] + [b"\0", b"\xe9", b"\xff", b"\r", b"{", b"}", b"[", b"]", b":", b"1", b"-"]
TOKENS += [b'{"text": "a", "label": "b"}', b"text,label\n", b"a,b\n", b"null", b"NaN", b"\\u", b"\\ud800", b"#", b"="]
SOUP = st.builds(
    lambda mark, parts: mark + b"".join(parts),
    st.sampled_from([b"", *MARKS]),
    st.lists(st.sampled_from(TOKENS) | st.binary(max_size=3), max_size=40),
)
ENDINGS = [*KINDS, *(kind + packing for kind in (".csv", ".jsonl") for packing in PACKINGS), ".zip", "", ".docx"]
SETTINGS = st.builds(
    ReadSettings,
    encoding=st.sampled_from(["", "", "", "utf-8", "cp1252", "utf-16", "utf-16-le", "shift_jis", "utf-7", "x"]),
    header=st.sampled_from([None, True, False]),
    skip_broken=st.booleans(),
)


@MADE
@given(SOUP, st.sampled_from(ENDINGS), SETTINGS, st.sampled_from(list(PACKERS)))
def test_any_bytes_are_rows_or_are_explained(content: bytes, ending: str, read: ReadSettings, packing: str) -> None:
    table, refused = scan("t" + ending, PACKERS[packing](content), read)
    assert refused or (table.rows and table.columns)


@MADE
@given(ROWS, st.sampled_from([".csv", ".jsonl", ".csv.gz", ".jsonl.xz"]), st.data())
def test_a_file_that_lost_or_changed_a_byte_is_no_fault_of_ours(rows: Rows, ending: str, data: st.DataObject) -> None:
    text = as_csv(rows) if ".csv" in ending else "\n".join(map(json.dumps, rows))
    content = bytearray(PACKERS[ending[ending.index(".", 1) :] if ending.count(".") > 1 else ""](text.encode()))
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] = data.draw(st.integers(0, 255))
    scan("t" + ending, bytes(content), ReadSettings())


def test_settings_that_a_kind_of_file_has_no_use_for_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n')
    _, faults = scan_table(path, ReadSettings(encoding="utf-8", header=False, sheet="Sheet1"))
    assert [(fault.severity, fault.what.split(" was")[0]) for fault in faults] == [
        ("warning", "no header"),
        ("warning", "a sheet"),
    ]

"""Packed tables, endings in capitals, Arrow files and spreadsheets: each is read, or refused by what it is."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.examples import find_labels, load_split
from fourshot.pipeline.tables.files import ReadSettings, read_table, scan_table
from fourshot.pipeline.task import DataSource
from fourshot.pipeline.tasks.new_task import new_task
from fourshot.pipeline.tasks.task_file import find_task_file, load_task
from tests.pipeline.task_folders import COLD, WARM, rows_of, write_task

ROWS = rows_of(WARM, "warm") + rows_of(COLD, "cold")
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)


def zipped(files: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def zstd(content: bytes) -> bytes:
    import pyarrow

    packed: bytes = pyarrow.compress(content, codec="zstd", asbytes=True)
    return packed


def arrow(kind: str) -> bytes:
    import pyarrow

    table, out = pyarrow.Table.from_pylist(ROWS), io.BytesIO()
    with {"file": pyarrow.ipc.new_file, "stream": pyarrow.ipc.new_stream}[kind](out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("T.CSV", CSV.encode()),
        ("t.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("T.CSV.GZ", gzip.compress(CSV.encode(), mtime=0)),
        ("t.csv.bz2", bz2.compress(CSV.encode())),
        ("t.csv.xz", lzma.compress(CSV.encode())),
        ("t.csv.zst", zstd(CSV.encode())),
        ("t.csv.zst", b"\x50\x2a\x4d\x18\4\0\0\0size" + zstd(CSV.encode())),  # as pzstd writes it
        ("t.csv.bz2", bz2.compress(CSV[:90].encode()) + bz2.compress(CSV[90:].encode()) + bytes(8)),
        ("t.csv.xz", lzma.compress(CSV[:90].encode()) + bytes(4) + lzma.compress(CSV[90:].encode())),
        ("t.csv", gzip.compress(CSV.encode(), mtime=0)),
        ("t.csv.gz", CSV.encode()),  # as a browser leaves it
        ("t.csv", msgspec.json.encode(ROWS)),
        ("t.csv", b"\n".join(map(msgspec.json.encode, ROWS))),
        ("t.zip", zipped({"any.csv": CSV})),
        ("t.zip", zipped({"any.csv": CSV, ".DS_Store": "x"})),
        ("t.zip", zipped({"folder/any.csv": CSV, "__MACOSX/folder/._any.csv": "x"})),
        ("t.arrow", arrow("file")),
        ("t.arrow", arrow("stream")),
        ("t.feather.gz", gzip.compress(arrow("file"), mtime=0)),
    ],
)
def test_packed_and_renamed_files_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert list(read_table(tmp_path / name).rows.values()) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:-12], "cannot be unpacked"),
        ("t.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:5], "cannot be unpacked"),
        ("t.csv.zst", zstd(CSV.encode())[:-5], "cannot be unpacked|no rows"),
        ("t.csv.bz2", bz2.compress(CSV.encode()) + b"Bzh9 and more", "cannot be unpacked"),
        ("t.csv.bz2", bz2.compress(CSV.encode())[:-5], "cannot be unpacked: the file ends before"),
        ("t.csv.xz", lzma.compress(CSV.encode()) + b"\xfd7zXY\x00 and more", "cannot be unpacked"),
        ("t.zip", zipped({"a.csv": CSV})[:-30], "cannot be unpacked"),
        ("t.zip", zipped({"a.csv": CSV, "b.csv": CSV}), r"a ZIP file with a\.csv, b\.csv; it must contain one table"),
        ("t.zip", zipped({}), "a ZIP file with nothing"),
        ("t.zip", zipped({"a.docx": "x"}), r"cannot read a packed \.docx file; allowed are"),
        ("t.csv.gz", gzip.compress(gzip.compress(b"a", mtime=0), mtime=0), "packed twice"),
        ("t.numbers", zipped({"Index/a": "x", "Data/b": "x"}), r"cannot read a \.numbers file; allowed are"),
        ("t.docx", b"PK", r"cannot read a \.docx file"),
        (
            "t.parquet",
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a pointer of Git LFS.*git lfs pull",
        ),
        ("t.csv", b"<!DOCTYPE html><html><body>Log in</body></html>", "a web page, not a table"),
        ("t.txt", b"\xef\xbb\xbf\r\n\n <html><body>502</body></html>", "a web page, not a table"),
        ("t.xls", b'<?xml version="1.0"?>\n<?mso-application progid="Excel.Sheet"?>', "an XML spreadsheet of 2003"),
        ("t", b"text", "cannot read a file without an ending"),
        ("t.xls", b"\xd0\xcf\x11\xe0 and no more", "not a readable spreadsheet"),
        ("t.xlsx", b"PK", "not a readable spreadsheet"),
        ("t.xls", CSV.replace(",", "\t").encode(), r"text with the ending \.xls\. Rename it to \.tsv"),
        ("t.xls", CSV.replace(",", "\t").encode("utf-16"), r"text with the ending \.xls\. Rename it to \.tsv"),
        ("t.xlsx", CSV.encode(), r"text with the ending \.xlsx\. Rename it to \.csv"),
        ("t.xls", b"\n<table><tr><td>text</td></tr></table>", r"a web page with the ending \.xls"),
        ("t.zip", b"PK", r"its ending is \.zip, but it does not begin like such a file"),
        ("t.arrow", b"ARROW1 and no more", "not a readable Arrow file"),
    ],
)
def test_damaged_and_other_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / name)


def test_a_column_in_the_names_of_folders_is_to_be_written_into_a_table(tmp_path: Path) -> None:
    for name in ("lock", "billing"):
        (tmp_path / "set" / f"label={name}").mkdir(parents=True)
    with pytest.raises(InputError, match=r"a folder, not a file; it contains label=billing.*as a column 'label'"):
        read_table(tmp_path / "set")


@pytest.mark.parametrize("name", ["notes", "notes.ann"])
def test_a_file_that_would_be_its_tasks_folder_is_not_to_be_removed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text("T1 x")
    with pytest.raises(InputError, match="cannot read a"):
        new_task(tmp_path / name, tmp_path / name)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data-00000-of-00001.arrow").write_bytes(arrow("stream"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"set is the table itself; nothing was written.*--out"):
        new_task("set", "set")


@pytest.mark.parametrize(
    ("metadata", "first"),
    [
        ({"info": {"features": {"label": {"feature": {"names": ["cold", "warm"]}}}}}, ["warm"]),
        ({"info": {"features": {"label": ["names"], "text": None}}}, [1]),
        ({"info": {"features": {"label": {"names": None}}}}, [1]),
        ({"info": None}, [1]),
        ([], [1]),
        (None, [1]),
    ],
)
def test_what_a_parquet_file_says_of_its_class_numbers_is_used_or_does_no_harm(
    tmp_path: Path, metadata: object, first: list[object]
) -> None:
    import pyarrow.parquet

    rows = [{"text": row["text"], "label": [1 if row["label"] == "warm" else 0]} for row in ROWS]
    written = json.dumps(metadata) if metadata is not None else "{"
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata({"huggingface": written})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert list(find_labels(DataSource(), read, [1], {}).labels) == list(map(str, first))
    assert ["cannot be read" in fault.what for fault in read.notices] == [True] * (metadata is None)


@pytest.mark.parametrize("bits", [16, 32])
def test_short_floats_are_read_as_they_were_written(tmp_path: Path, bits: int) -> None:
    import numpy
    import pyarrow.parquet

    label = numpy.array([0.5, 0.25, 2, numpy.nan] if bits == 16 else [0.1, 4.7, 3e-9, numpy.inf], dtype=f"float{bits}")
    table = pyarrow.table({"text": ["a", "b", "c", "d"], "label": label})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    cells = [row["label"] for row in read_table(tmp_path / "t.parquet").rows.values()]
    assert list(map(str, cells)) == (["0.5", "0.25", "2.0", "nan"] if bits == 16 else ["0.1", "4.7", "3e-09", "inf"])


def test_an_arrow_stream_without_its_end_is_warned_about(tmp_path: Path) -> None:
    import pyarrow

    table, out = pyarrow.Table.from_pylist(ROWS), io.BytesIO()
    with pyarrow.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
        half = out.tell()
    whole = out.getvalue()
    for name, content in (("t.arrow", whole[:half]), ("t.arrow.gz", gzip.compress(whole[:half]))):
        (tmp_path / name).write_bytes(content)
        [notice] = read_table(tmp_path / name).notices
        assert notice.severity == "warning" and "the stream has no end" in notice.what
    (tmp_path / "t.arrow").write_bytes(whole)
    assert read_table(tmp_path / "t.arrow").notices == ()


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_a_damaged_byte_of_an_arrow_file_is_explained_or_changes_a_cell(tmp_path: Path, kind: str) -> None:
    sound = arrow(kind)
    for place in range(0, len(sound), 5):
        (tmp_path / "t.arrow").write_bytes(sound[:place] + bytes([sound[place] ^ 0xFF]) + sound[place + 1 :])
        table, faults = scan_table(tmp_path / "t.arrow")
        assert len(table.rows) == 8 or faults


def test_a_packed_table_in_capitals_makes_a_task_and_serves_as_a_split(tmp_path: Path) -> None:
    (tmp_path / "My Table.CSV.GZ").write_bytes(gzip.compress(CSV.encode()))
    with pytest.raises(InputError, match="is a table of texts, not a task file"):
        find_task_file(tmp_path / "My Table.CSV.GZ")
    report = new_task(tmp_path / "My Table.CSV.GZ", tmp_path / "out")
    assert (report.rows, report.task_file) == (8, str(tmp_path / "out" / "my_table.toml"))
    task = load_task(write_task(tmp_path))
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "TRAIN.Csv.gz").write_bytes(gzip.compress(CSV.encode()))
    assert len(load_split(task, "train").examples) == 8


LINK = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def spreadsheet(*sheets: list[list[object]], merged: str = "", hidden: tuple[int, ...] = ()) -> bytes:
    """An .xlsx file in its plainest form: strings in the cells, numbers as numbers."""

    def cell(value: object) -> str:
        return (
            f"<c><v>{value}</v></c>"
            if isinstance(value, int | float)
            else f'<c t="inlineStr"><is><t>{value}</t></is></c>'
        )

    main, link = "http://schemas.openxmlformats.org/spreadsheetml/2006/main", LINK
    package = "http://schemas.openxmlformats.org/package/2006"
    numbers = range(1, len(sheets) + 1)
    entries = "".join(f'<sheet name="S{n}" sheetId="{n}" r:id="r{n}"/>' for n in numbers)
    links = "".join(f'<Relationship Id="r{n}" Type="{link}/worksheet" Target="worksheets/s{n}.xml"/>' for n in numbers)
    content = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r0" '
        f'Type="{link}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{link}"><sheets>{entries}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">{links}</Relationships>',
    }
    for number, rows in enumerate(sheets, start=1):
        lines = "".join(
            f"<row hidden='{int(at in hidden)}'>{''.join(map(cell, row))}</row>" for at, row in enumerate(rows, start=1)
        )
        content[f"xl/worksheets/s{number}.xml"] = (
            f'<worksheet xmlns="{main}"><sheetData>{lines}</sheetData>{merged}</worksheet>'
        )
    return zipped(content)


SHEET: list[list[object]] = [["text", "label"], ["Stuck, again.", 1], ["Charged.", 2], ["Jams.", 1]]


@pytest.mark.parametrize("name", ["t.xlsx", "T.XLSX", "t.csv"])
def test_a_spreadsheet_is_read_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(spreadsheet(SHEET, []))
    table = read_table(tmp_path / name)
    assert [row["text"] for row in table.rows.values()] == ["Stuck, again.", "Charged.", "Jams."]
    assert (table.unit, list(table.rows)) == ("row", [2, 3, 4])
    (tmp_path / name).write_bytes(spreadsheet(SHEET, SHEET[:2]))
    assert len(read_table(tmp_path / name, ReadSettings(sheet="S2")).rows) == 1
    with pytest.raises(InputError, match="no sheet 'S3'; there is 'S1', 'S2'"):
        read_table(tmp_path / name, ReadSettings(sheet="S3"))
    (tmp_path / name).write_bytes(spreadsheet(SHEET, []))
    without = read_table(tmp_path / name, ReadSettings(header=False))
    assert (without.columns, len(without.rows)) == (("1", "2"), 4)


@pytest.mark.parametrize(
    ("sheets", "message"),
    [
        ([SHEET, SHEET], "the sheets 'S1' and 'S2' are not empty"),
        ([SHEET[1:]], "the first line looks like an example.*'1' is also in 1 more row"),
        ([[["Complaints", ""], *SHEET]], "column 2 has no name"),
        ([[]], "no rows"),
    ],
)
def test_spreadsheets_that_are_no_table_are_asked_about(
    tmp_path: Path, sheets: list[list[list[object]]], message: str
) -> None:
    (tmp_path / "t.xlsx").write_bytes(spreadsheet(*sheets))
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "t.xlsx")


def test_cells_merged_over_several_rows_are_pointed_out(tmp_path: Path) -> None:
    merged = '<mergeCells count="2"><mergeCell ref="B2:B4"/><mergeCell ref="A1:B1"/></mergeCells>'
    (tmp_path / "t.xlsx").write_bytes(spreadsheet(SHEET, merged=merged))
    assert ["merged over several rows" in fault.what for fault in read_table(tmp_path / "t.xlsx").notices] == [True]


def test_rows_that_a_filter_hides_are_read_and_counted(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(spreadsheet([], SHEET, hidden=(1, 2, 4)))
    table = read_table(tmp_path / "t.xlsx")
    assert [(fault.severity, fault.what) for fault in table.notices] == [
        ("warning", "2 rows hidden in the sheet: read like the others (row 2, 4).")
    ]
    assert len(table.rows) == 3
    (tmp_path / "t.xlsx").write_bytes(spreadsheet(SHEET))
    assert read_table(tmp_path / "t.xlsx").notices == ()

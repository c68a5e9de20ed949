"""A spreadsheet of two kilobytes that would take all memory is told of before it is read."""

import io
import zipfile

import pytest

from fourshot.pipeline.tables.sheet_size import check_size
from fourshot.pipeline.tables.types import TableError


def package(sheet: str, name: str = "xl/worksheets/sheet1.xml") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr(name, f"<worksheet><sheetData>{sheet}</sheetData></worksheet>")
    return content.getvalue()


TABLE = '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1"><v>1</v></c></row>'


@pytest.mark.parametrize(
    "far",
    [
        '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>',
        "<x:row r='1048576'><x:c s='1' r='XFD1048576'><x:v>1</x:v></x:c></x:row>",
        '<row r="1048576"><c><v>1</v></c></row><row r="2"><c r="ALL2"><v>1</v></c></row>',
    ],
)
@pytest.mark.parametrize("name", ["xl/worksheets/sheet1.xml", "elsewhere/data.bin"])
def test_a_cell_far_from_the_table_is_told(far: str, name: str) -> None:
    with pytest.raises(TableError, match="Up to there are") as raised:
        check_size(package(TABLE + far, name))
    assert "row 1,048,576" in raised.value.what and "save it as CSV" in raised.value.remedy


@pytest.mark.parametrize(
    "content",
    [
        package(TABLE),
        package(f'{TABLE}<row r="1048576" ht="15"/><row r="3"><c r="XFD3" s="7"/></row>'),  # formats alone
        package(f'{TABLE}<row r="1048576"><c r="T1048576"><v>1</v></c></row>'),  # as long as a sheet can be
        package("<row " * 400_000),  # never closed: gone through once
        package("<c" + ' r="A1"' * 400_000 + "/>"),
        package(TABLE)[:-30],
        b"",
        b"text,label",
    ],
)
def test_others_are_left_to_their_readers(content: bytes) -> None:
    check_size(content)


def test_a_part_that_unpacks_to_gigabytes_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise AssertionError("it was read")

    monkeypatch.setattr("fourshot.pipeline.tables.sheet_size.MOST_BYTES", 50)
    monkeypatch.setattr(zipfile.ZipFile, "read", refuse)
    with pytest.raises(TableError, match="bytes"):
        check_size(package(TABLE))

"""What is in the cells of a spreadsheet: all of it is read, and what is not in the file is said."""

import io
import zipfile
from pathlib import Path

from fourshot.pipeline.tables.files import read_table, scan_table
from tests.pipeline.tables.test_file_bytes import LINK, SHEET, spreadsheet, zipped


def test_hidden_rows_of_a_strict_file_are_counted_too(tmp_path: Path) -> None:
    strict = b"http://purl.oclc.org/ooxml/officeDocument/relationships"
    (tmp_path / "t.xlsx").write_bytes(parts_replaced(spreadsheet([], SHEET, hidden=(2,)), LINK.encode(), strict))
    assert ["1 row hidden in the sheet" in fault.what for fault in read_table(tmp_path / "t.xlsx").notices] == [True]


def parts_replaced(book: bytes, old: bytes, new: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(book)) as archive:
        return zipped({name: archive.read(name).replace(old, new).decode() for name in archive.namelist()})


def test_formulas_without_a_result_are_pointed_out(tmp_path: Path) -> None:
    formula = b'<c r="B3"><f>1+1</f><v></v></c><c r="C3"><f>A3</f><v>2</v></c><c r="D3"><f>A3</f></c>'
    (tmp_path / "t.xlsx").write_bytes(parts_replaced(spreadsheet(SHEET), b"<c><v>2</v></c>", formula))
    table, faults = scan_table(tmp_path / "t.xlsx")
    assert any("2 formulas whose result is not in the file: read as empty (B3, D3)." in fault.what for fault in faults)
    assert any("save it there" in fault.remedy for fault in table.notices)


def test_line_breaks_and_tabs_in_the_cells_of_an_ods_file_stay(tmp_path: Path) -> None:
    office = "urn:oasis:names:tc:opendocument:xmlns"
    cells = (
        '<table:table-row><table:table-cell office:value-type="string"><text:p>{}</text:p></table:table-cell>'
        '<table:table-cell office:value-type="string"><text:p>{}</text:p></table:table-cell></table:table-row>'
    )
    text = "a <text:span>li<text:line-break/>nk</text:span><text:tab/>end"
    content = (
        f'<office:document-content xmlns:office="{office}:office:1.0" xmlns:table="{office}:table:1.0" '
        f'xmlns:text="{office}:text:1.0"><office:body><office:spreadsheet><table:table table:name="S1">'
        f"{cells.format('text', 'label')}{cells.format(text, 'lock')}"
        "</table:table></office:spreadsheet></office:body></office:document-content>"
    )
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    entry = f'<m:file-entry m:full-path="/" m:media-type="{kind}"/>'
    manifest = f'<m:manifest xmlns:m="{office}:manifest:1.0">{entry}</m:manifest>'
    parts = {"mimetype": kind, "content.xml": content, "META-INF/manifest.xml": manifest}
    (tmp_path / "t.ods").write_bytes(zipped(parts))
    assert list(read_table(tmp_path / "t.ods").rows.values()) == [{"text": "a li\nnk\tend", "label": "lock"}]


def test_numbers_that_name_columns_keep_their_digits(tmp_path: Path) -> None:
    """Two such days had one name, 2.02401e+07."""
    (tmp_path / "t.xlsx").write_bytes(spreadsheet([["text", 20240115, 20240116, 1.5], ["ice", 1, 2, 3]]))
    assert read_table(tmp_path / "t.xlsx").columns == ("text", "20240115", "20240116", "1.5")

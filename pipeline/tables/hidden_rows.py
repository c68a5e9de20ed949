"""What calamine does not say of a sheet: rows that it hides, as a filter does, and formulas without a result."""

import io
import posixpath
import re
import zipfile
from xml.etree import ElementTree

_PACKAGE = "{http://schemas.openxmlformats.org/package/2006/relationships}"
_RELATION = "}id"  # in one of two namespaces: ISO/IEC 29500 Strict has its own
_ROW = re.compile(rb"<(?:\w+:)?row\b([^<>]*)>")
_HIDDEN = re.compile(rb"""\bhidden=["'](?:1|true)["']""")
# A program that computes nothing, such as openpyxl, writes a formula (f) and no value (v).
_NO_RESULT = re.compile(
    rb"""<(?:\w+:)?c\b([^<>]*)>\s*<(?:\w+:)?f\b(?:[^<>]*/>|[^<>]*>[^<]*</(?:\w+:)?f>)\s*"""
    rb"""(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</(?:\w+:)?v>)?\s*</(?:\w+:)?c>"""
)
_CELL = re.compile(rb"""\br=["']([A-Z]+\d+)["']""")
_NUMBER = re.compile(rb"""\br=["'](\d+)["']""")


def hidden_rows(content: bytes, sheet: str) -> list[int]:
    """The numbers, from 1, of the hidden rows of a sheet of an .xlsx or .xlsm file; none for other formats.

    Source: ECMA-376, part 1, 18.3.1.73 (``hidden`` and ``r`` of a row), 18.2.19 (the sheets of a workbook).
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            rows = _ROW.finditer(book.read(_part(book, sheet)))
            hidden, number = [], 0
            for row in rows:
                number_match = _NUMBER.search(row[1])
                number = int(number_match[1]) if number_match else number + 1
                if _HIDDEN.search(row[1]):
                    hidden.append(number)
            return hidden
    except (zipfile.BadZipFile, KeyError, StopIteration, ValueError, ElementTree.ParseError):
        return []  # whether the file can be read at all is for its reader to say


def unstored_results(content: bytes, sheet: str) -> list[str]:
    """Cells of a sheet of an .xlsx or .xlsm file, such as B2, with a formula whose result is not in the file.

    Source: ECMA-376, part 1, 18.3.1.40 (``f``), 18.3.1.96 (``v``).
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            names = (_CELL.search(cell[1]) for cell in _NO_RESULT.finditer(book.read(_part(book, sheet))))
            return [name[1].decode() if name else "?" for name in names]
    except (zipfile.BadZipFile, KeyError, StopIteration, ValueError, ElementTree.ParseError):
        return []


def _part(book: zipfile.ZipFile, sheet: str) -> str:
    """The file of a sheet in the package."""
    entries = ElementTree.fromstring(book.read("xl/workbook.xml")).iter()
    relation = next(
        value
        for entry in entries
        if entry.get("name") == sheet
        for attribute, value in entry.attrib.items()
        if attribute.endswith(_RELATION)
    )
    links = ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels")).iter(f"{_PACKAGE}Relationship")
    *_, target = (link.attrib["Target"] for link in links if link.get("Id") == relation)  # calamine reads the last
    return posixpath.normpath(posixpath.join("/xl", target)).lstrip("/")

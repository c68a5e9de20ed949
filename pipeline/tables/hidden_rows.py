"""Find what calamine does not report of a sheet: hidden rows, such as filtered ones, and formulas without a result."""

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
    """Return the 1-based numbers of the hidden rows in a sheet of an .xlsx or .xlsm file; empty for other formats.

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
        return []  # the spreadsheet reader reports files that cannot be read


def unstored_results(content: bytes, sheet: str) -> list[str]:
    """Return the cells, such as B2, in a sheet of an .xlsx or .xlsm file with a formula whose result is not stored.

    A cell without a reference is "?". Empty for other formats.

    Source: ECMA-376, part 1, 18.3.1.40 (``f``), 18.3.1.96 (``v``).
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            names = (_CELL.search(cell[1]) for cell in _NO_RESULT.finditer(book.read(_part(book, sheet))))
            return [name[1].decode() if name else "?" for name in names]
    except (zipfile.BadZipFile, KeyError, StopIteration, ValueError, ElementTree.ParseError):
        return []


def _part(book: zipfile.ZipFile, sheet: str) -> str:
    """Return the path of a sheet's file in the package."""
    entries = ElementTree.fromstring(book.read("xl/workbook.xml")).iter()
    relation = next(
        value
        for entry in entries
        if entry.get("name") == sheet
        for attribute, value in entry.attrib.items()
        if attribute.endswith(_RELATION)
    )
    links = ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels")).iter(f"{_PACKAGE}Relationship")
    *_, target = (link.attrib["Target"] for link in links if link.get("Id") == relation)  # the last, as in calamine
    return posixpath.normpath(posixpath.join("/xl", target)).lstrip("/")

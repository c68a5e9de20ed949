"""Limit the size of spreadsheets: calamine allocates every cell up to the last row and column, filled or not.

A file of two kilobytes whose only cell is in the last corner would request half a terabyte and crash the process.
"""

import io
import re
import zipfile
import zlib

from fourshot.pipeline.tables.types import TableError

MOST_CELLS = 100_000_000  # a million rows of a hundred columns: three gigabytes
MOST_BYTES = 2 << 30  # of one part of the package, uncompressed
# A row or cell with content. Those with only a format are self-closing elements, which calamine skips.
_PLACE = re.compile(rb"""<(?:\w+:)?(?:c|row)\b(?>[^<>]*?\sr=["']([A-Z]{0,3})(\d{1,7})["'])[^<>]*+(?<!/)>""")


def check_size(content: bytes) -> None:
    """Raise TableError if an .xlsx or .xlsm file has a sheet of more than `MOST_CELLS`.

    Also raises it for a part of more than `MOST_BYTES`. Any part of the package may be a sheet, so all are examined.
    Files that are no ZIP package are not checked.

    Source: ECMA-376, part 1, 18.3.1.4 and 18.3.1.73 (``r`` of a cell and of a row).
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            for part in book.infolist():
                if part.file_size > MOST_BYTES:
                    raise TableError(f"{part.filename} in it has {part.file_size:,} bytes.", "Save it as CSV.")
                last_column = last_row = 0
                for place in _PLACE.finditer(book.read(part)):
                    last_column, last_row = max(last_column, _number(place[1])), max(last_row, int(place[2]))
                if last_column * last_row > MOST_CELLS:
                    raise TableError(
                        f"there are values in row {last_row:,} and in column {last_column:,} of a sheet "
                        f"({part.filename}). Up to there are {last_column * last_row:,} cells, and at most "
                        f"{MOST_CELLS:,} can be read.",
                        "Delete what is far from the table, or save it as CSV.",
                    )
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error):
        return  # another format, or a damaged file, which the spreadsheet reader reports


def _number(letters: bytes) -> int:
    """Return the 1-based number of a column: A, Z, AA are 1, 26, 27."""
    number = 0
    for letter in letters:
        number = 26 * number + letter - ord("A") + 1
    return number

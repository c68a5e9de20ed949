"""Read CSV and its dialects: detect the separator from a sample, and the meaning of quotes from the complete file.

Python's `csv` reads all of these dialects and reports the line on which a record begins, unlike pandas, pyarrow and
polars. Its `Sniffer` guesses from a sample, so the dialect is determined here: a reading of the quotes fits if every
record of the file has as many cells as the first one.
"""

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

import msgspec

from fourshot.pipeline.faults import note, shorten, warning
from fourshot.pipeline.tables.file_bytes import TableSource
from fourshot.pipeline.tables.grid import grid_rows, names_its_rows
from fourshot.pipeline.tables.text import DecodedText, check_text
from fourshot.pipeline.tables.types import Item, TableError, TableScan

DELIMITERS = ",;\t|"
LARGEST_CELL = 2**31 - 1  # characters; the default of 131,072 is less than some e-mails have
_SAMPLE = 1 << 18  # characters from which the separator is detected
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[\r\n]+', re.IGNORECASE)  # as spreadsheets write and read it
QUOTED: dict[str, Any] = {}
_ESCAPED: dict[str, Any] = {"escapechar": "\\"}  # "doublequote" stays on, else `csv` accepts anything after a cell
# Source: Python's `csv`, "Dialects and Formatting Parameters".
READINGS: dict[str, dict[str, Any]] = {
    "cells in double quotes": QUOTED,
    "cells in double quotes after a blank": {"skipinitialspace": True},
    "cells in double quotes, with a backslash before a quote or a backslash of the text": _ESCAPED,
    "cells in double quotes, with a backslash before a quote of the text": _ESCAPED,
    "quotes as characters like any other": {"quoting": csv.QUOTE_NONE},
}
_QUOTED, _AFTER_BLANK, _ALL_ESCAPED, _QUOTES_ESCAPED, _LITERAL = READINGS
LITERAL = READINGS[_LITERAL]
# Reading -> backslashes that belong to the text, which `csv` would drop. A pair matched by the first is an escape.
_BACKSLASHES = {_ALL_ESCAPED: re.compile(r'\\["\\]|\\'), _QUOTES_ESCAPED: re.compile(r'\\+(?!["\\])')}
_NOT_BY_MYSQL = re.compile(r"\\(?![nrt0bZN])")  # Source: MySQL, "LOAD DATA", escape sequences


class _Fit(msgspec.Struct, frozen=True, kw_only=True):
    """How well a reading fits a file."""

    records: int
    odd: int  # records with another number of cells than the first
    spans: int  # the line of the first record that may span several lines; 0 if there is none
    fault: str = ""  # about an invalid quote, which ended the pass

    @property
    def is_clean(self) -> bool:
        return not self.odd and not self.fault


def read_csv(reading: TableScan, source: TableSource) -> Iterator[Item]:
    """Yield the rows of a CSV file. Raises `TableError` if no dialect can read it."""
    csv.field_size_limit(LARGEST_CELL)
    text = check_text(reading, source)
    with text.open(newline="") as stream:
        sample = stream.read(_SAMPLE)
    match = _SEPARATOR_LINE.match(sample)
    skip = 1 if match else 0
    delimiter = match[1] if match else _find_delimiter(sample, not source.name.lower().endswith(".csv"))
    reading.separator, reading.encoding = delimiter, text.encoding
    name = _find_reading(reading, text, delimiter, skip) if text.has_quotes else next(iter(READINGS))
    with text.open(newline="") as stream:
        records = _records(stream, delimiter, name, skip)
        yield from grid_rows(reading, records, f" (separator {delimiter!r}{f'; {name}' * text.has_quotes})")


def is_table(text: DecodedText, delimiter: str) -> bool:
    """Return whether the complete text is a table of two or more columns with this separator."""
    with text.open(newline="") as stream:
        first = next((line for line in stream if line.strip()), "")
    return delimiter in first and any(_fit(text, delimiter, name, 0).is_clean for name in (_LITERAL, _QUOTED))


def _records(stream: TextIO, delimiter: str, name: str, skip: int) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which the record starts, its cells), without blank lines. Raises `TableError` for a bad quote.

    In a table of one column, a line of two quotes is not blank: writers store a row without a text in that way.
    """
    # A byte-order mark inside, where files were concatenated, would hide that a cell begins with a quote.
    bare = (line.removeprefix("\ufeff") if line.startswith('\ufeff"') else line for line in stream)
    lines: Iterator[str] = itertools.islice(bare, skip, None)
    if backslashes := _BACKSLASHES.get(name):
        lines = (backslashes.sub(_doubled, line) for line in lines)
    reader = csv.reader(lines, delimiter=delimiter, strict=True, **READINGS[name])
    start, width = skip + 1, 0
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and (cells[0].strip("\x1a \t") or (width == 1 and not cells[0]))):
                width = width or len(cells)
                yield start, cells
            start = skip + reader.line_num + 1
    except csv.Error as failure:
        raise TableError(
            f"a quote opens a cell here, which is not closed correctly ({failure}; separator {delimiter!r}).",
            "Close it, double each quote that belongs to a text, or save the file as JSON Lines.",
            start,
        ) from failure


def _doubled(backslashes: re.Match[str]) -> str:
    """Double backslashes that belong to the text, so that `csv` keeps them; return an escape unchanged."""
    is_escape = backslashes.re is _BACKSLASHES[_ALL_ESCAPED] and len(backslashes[0]) == 2
    return backslashes[0] if is_escape else backslashes[0] * 2


def _find_delimiter(sample: str, tabs: bool) -> str:
    """Return the separator with the largest share of sample records that have as many cells as the first, at least 2.

    ``tabs``: a tab is preferred, and is returned instead of a comma if no separator occurs. Raises `TableError` if
    several separators fit equally well.
    """
    lines = list(io.StringIO(sample, newline=""))
    if len(sample) == _SAMPLE and len(lines) > 1:
        lines.pop()  # it may be incomplete
    fits: dict[str, tuple[float, int]] = {}
    for delimiter in DELIMITERS:
        for quoting in (QUOTED, LITERAL):
            counts = [len(cells) for cells in csv.reader(lines, delimiter=delimiter, **quoting) if cells]
            if counts and counts[0] > 1:
                fit = (counts.count(counts[0]) / len(counts), counts[0])
                fits[delimiter] = max(fit, fits.get(delimiter, fit))
    if not fits:
        return "\t" if tabs else ","
    if tabs and "\t" in fits:
        return "\t"
    best = max(fits.values())
    if len(same := [repr(delimiter) for delimiter, fit in fits.items() if fit == best]) > 1:
        raise TableError(
            f"cannot tell what separates the cells: {' and '.join(same)} are equally frequent in the lines.",
            "Write the separator on a first line of its own: sep=;",
        )
    return max(fits, key=lambda delimiter: fits[delimiter])


def _find_reading(reading: TableScan, text: DecodedText, delimiter: str, skip: int) -> str:
    """Return the name of the first reading of the quotes in which all records have the same number of cells.

    Literal quotes are the last reading, because they fit every file whose texts lack the separator. In tab-separated
    files, quotes rarely delimit cells, so literal quotes are preferred unless `_quotes_are_needed`. If no reading
    fits, it is ordinary quotes or, with tabs, literal quotes if these give no more faults.

    Adds a warning to ``reading`` if the result is ambiguous, or else a note if it is not the usual one.
    """
    quoted, literal = _QUOTED, _LITERAL
    opens = re.compile(rf'(?:^|{re.escape(delimiter)}) *"')
    with text.open(newline="") as stream:
        if not any(map(opens.search, stream)):
            return quoted  # a quote can only have a meaning at the beginning of a cell
    fits = {quoted: _fit(text, delimiter, quoted, skip)}
    if fits[quoted].spans or not fits[quoted].is_clean or delimiter == "\t":
        fits[literal] = _fit(text, delimiter, literal, skip)
    if not fits[quoted].is_clean:
        fits |= {name: _fit(text, delimiter, name, skip) for name in (_AFTER_BLANK, _ALL_ESCAPED)}
    clean = [name for name in READINGS if name in fits and fits[name].is_clean]
    chosen = clean[0] if clean else quoted
    # Both fit, with different numbers of records: quotes would join lines.
    doubtful = clean == [quoted, literal] and fits[quoted].records != fits[literal].records
    if delimiter == "\t":
        if not clean:
            by_line = fits[literal].odd <= fits[quoted].odd + bool(fits[quoted].fault)
        else:
            by_line = literal in clean and not _quotes_are_needed(text, skip, by_rows=not doubtful)
        chosen = literal if by_line else chosen
    if chosen == _ALL_ESCAPED:
        chosen = _by_backslashes(reading, text)
    message = f"separated by {delimiter!r}; read with {chosen}."
    if doubtful and (chosen == literal or delimiter != "\t"):
        message += f" From line {fits[quoted].spans} on, several lines could also be one cell, or rows of their own."
        reading.faults.append(warning(reading.path, message, "If this is wrong, save the table as JSON Lines."))
    elif delimiter == "\t" or chosen != quoted:
        reading.faults.append(note(reading.path, message))
    return chosen


def _by_backslashes(reading: TableScan, text: DecodedText) -> str:
    r"""Return the reading of a file with escaped quotes: backslashes are escaped too, unless some stand alone.

    Standing alone means before a character that is neither a quote, a backslash, nor escaped by MySQL. A single \n may
    be a line break or part of a path such as C:\new, so it is kept, with a warning.
    """
    lines, sample, name = [], "", _ALL_ESCAPED
    with text.open() as stream:
        for number, line in enumerate(stream, start=1):
            alone = [match for match in _BACKSLASHES[_ALL_ESCAPED].finditer(line) if len(match[0]) == 1]
            if alone:
                lines.append(number)
                sample = sample or line[alone[0].start() : alone[0].start() + 12].rstrip()
                name = _QUOTES_ESCAPED if any(_NOT_BY_MYSQL.match(line, at.start()) for at in alone) else name
    if lines:
        problem = (
            f"backslashes before other characters than a quote are kept, such as {sample!r} (line {shorten(lines)})."
        )
        remedy = "If they are escapes, such as \\n for a line break, save the table as JSON Lines."
        reading.faults.append(warning(reading.path, problem, remedy))
    return name


def _fit(text: DecodedText, delimiter: str, name: str, skip: int) -> _Fit:
    records, odd, spans = 0, 0, 0
    with text.open(newline="") as stream:
        try:
            rows = _records(stream, delimiter, name, skip)
            last, cells = next(rows, (0, []))
            width, records = len(cells), 1
            for records, (line, cells) in enumerate(rows, start=2):
                if line != last + 1:
                    spans = spans or last
                last = line
                if len(cells) != width:
                    if records == 2 and names_its_rows([""] * width, cells):
                        width += 1
                    odd += len(cells) < width or any(cells[width:])
        except TableError as failure:
            return _Fit(records=records, odd=odd, spans=spans, fault=failure.what)
    if not spans and any("\n" in cell or "\r" in cell for cell in cells):
        spans = last
    return _Fit(records=records, odd=odd, spans=spans)


def _quotes_are_needed(text: DecodedText, skip: int, by_rows: bool) -> bool:
    """Return whether the quotes of a tab-separated table that fits in both readings look like those of a CSV writer.

    Such a writer quotes all column names, doubles a quote inside a text, quotes every cell of a column, or quotes every
    cell with a comma. ``by_rows``: examine the rows too, not only the names.
    """
    with text.open(newline="") as stream:
        records = _records(stream, "\t", _LITERAL, skip)
        _, names = next(records, (0, [""]))
        return all(name.startswith('"') for name in names) or (
            by_rows and _written_with_quotes(cells for _, cells in records)
        )


def _written_with_quotes(records: Iterable[list[str]]) -> bool:
    rows, in_quotes, commas, bare_commas = 0, [0] * 0, 0, 0
    for cells in records:
        rows += 1
        in_quotes += [0] * (len(cells) - len(in_quotes))
        for place, cell in enumerate(cells):
            if cell.startswith('"'):
                in_quotes[place] += 1
                if '""' in cell[1:-1]:
                    return True
                commas += "," in cell
            else:
                bare_commas += "," in cell
    return rows in in_quotes or (commas > 0 and not bare_commas)

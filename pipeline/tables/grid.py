"""Convert the rows of cells of CSV files and spreadsheets into rows by column name, and check the header line."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from fourshot.pipeline.faults import counted, error, shorten, warning
from fourshot.pipeline.tables.types import LABEL_NAMES, TEXT_NAMES, Item, TableScan, UnreadRow

_SEPARATORS = 'Put texts that contain the separator in "double quotes". Does the first line name the columns?'
_ONE_COLUMN = (
    "If the first line does not name the columns, remove it. If another character is the separator, write it on a "
    "first line of its own, such as sep=^. If each line is one text, rename the file to .txt."
)
_NO_HEADER = (
    ", or give --no-header: they are then called 1, 2, ... (in a task file, $.data.header = false). If this one does: "
    "--text-column NAME --label-column NAME."
)
_NUMBERED = "rows have a cell more than the line of names: the first was read as the row number, as R writes it."
_LONGEST_NAME = 200  # characters; a column may be named after the question of a survey
_RULE = re.compile(r"\s*:?-{3,}:?\s*")
WORDS_OF_A_SENTENCE = 4


def grid_rows(reading: TableScan, records: Iterator[tuple[int, Sequence[Any]]], hint: str) -> Iterator[Item]:
    """Yield (line, row by column name) from (line, cells). ``hint`` is added to errors about the number of cells.

    The first record that is not blank is the header, unless the settings say that there is none. A column without a
    name is named by its position, from 1. Empty cells beyond the last column are dropped. A record that repeats the
    header is left out, and so is a line of dashes below it. Faults of the header are added to ``reading``.
    """
    has_names = reading.settings.header is not False
    # A blank line that a spreadsheet program writes consists of separators.
    first = next((record for record in records if not has_names or any(map(_is_filled, record[1]))), None)
    if first is None:
        return
    line, cells = first
    second = next(records, None)
    if second is not None:
        records = itertools.chain([second], records)
        if has_names and names_its_rows(cells, second[1]):
            cells = ["", *cells]
            reading.faults.append(warning(reading.path, _NUMBERED))
    raw, header = list(cells), [_name_in(cell) if has_names else "" for cell in cells]
    columns = _names(header)
    if has_names:
        _refuse_repeated(columns, reading, line)
    else:
        yield line, dict(zip(columns, cells, strict=True))
    reading.columns |= dict.fromkeys(columns)
    width, named = len(columns), {name for name in [*raw, *header] if name not in ("", None)} if any(header) else set()
    doubt = _Doubt(header, raw, second[1] if second else ())
    nameless = doubt.nameless if named else []
    for number, cells in records:
        if len(cells) != width:
            if len(cells) < width or any(cells[width:]):
                problem = f"{counted(len(cells), 'field')} where the header has {width}{hint}."
                yield number, UnreadRow("field_count", problem, _ONE_COLUMN if width == 1 else _SEPARATORS)
                continue
            cells = cells[:width]
        if not named.isdisjoint(cells):
            # Concatenated files may each begin with a byte-order mark.
            if list(cells) == raw or [str(cells[0]).lstrip("\ufeff"), *cells[1:]] == header:
                yield number, UnreadRow("repeated_header", "repeating the column names", is_error=False)
                continue
            doubt.see(number, cells)
        if second is not None and number == second[0] and _is_rule(cells):
            yield number, UnreadRow("rule", "that only underline the names, as in Markdown", is_error=False)
            continue
        if nameless:
            doubt.fill(number, cells)
        yield number, dict(zip(columns, cells, strict=False))  # as many as there are columns
    if named:
        doubt.judge(reading, line, columns)


def _name_in(cell: Any) -> str:
    return f"{cell:.15g}" if isinstance(cell, float) else str(cell).strip("\ufeff \t\r\n")


def _refuse_repeated(columns: Sequence[str], reading: TableScan, line: int) -> None:
    """Add an error to ``reading`` for each name that several columns have."""
    for name, times in Counter(columns).items():
        if times > 1:
            remedy = "Rename or remove one."
            if "--no-header" in reading.settings.offers:
                remedy += " If no line names the columns: --no-header."
            problem = f"the column {name!r} occurs {times} times."
            reading.faults.append(error(f"{reading.path}:{line}", problem, remedy))


def _is_filled(cell: Any) -> bool:
    return cell is not None and bool(str(cell).strip("\ufeff \t\r\n"))


def _is_rule(cells: Sequence[Any]) -> bool:
    """Return whether a record is the line below the header of a Markdown table: ``| --- | --- |``."""
    filled = [cell for cell in map(str, cells) if cell.strip()]
    return len(filled) > 1 and all(map(_RULE.fullmatch, filled))


def names_its_rows(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Return whether rows have a number in front that the header lacks. Source: R, `write.table`, "CSV files"."""
    return len(second) == len(first) + 1 and str(second[0]) == "1"


def _has_usual_names(cells: Sequence[Any]) -> bool:
    """Return whether the cells include a common name of a text column and one of a label column."""
    names = {str(cell).strip().lower() for cell in cells}
    return not names.isdisjoint(TEXT_NAMES) and not names.isdisjoint(LABEL_NAMES)


def _names(header: Sequence[str]) -> list[str]:
    """Return the columns' names; for one without a name its position, written so that no other column has this name."""
    places = (f"column {place}" if str(place) in header else str(place) for place in range(1, len(header) + 1))
    return [name or place for name, place in zip(header, places, strict=True)]


class _Doubt:
    """Evidence that the first line of a table is not its header."""

    def __init__(self, header: Sequence[str], raw: Sequence[Any], second: Sequence[Any]) -> None:
        self.header = header
        self._second = second
        self._raw = raw  # the header's cells as read; in spreadsheets, numbers are not strings
        self.rows = 0
        self.nameless = [place for place, name in enumerate(header) if not name]
        self._again: dict[int, int] = {}  # position of a column -> rows with its name as a value in it
        self._filled: dict[int, int] = dict.fromkeys(self.nameless, 0)
        self._filled_lines: list[int] = []

    def see(self, line: int, cells: Sequence[Any]) -> None:
        """Process a row that contains the name of a column: count it for each column whose own name it repeats."""
        for place, name in enumerate(self.header):
            if name and cells[place] in (name, self._raw[place]):
                self._again[place] = self._again.get(place, 0) + 1

    def fill(self, line: int, cells: Sequence[Any]) -> None:
        """Process a row of a table with nameless columns: count its values in these."""
        self.rows += 1
        if any(cells[place] for place in self.nameless):
            self._filled_lines.append(line)
        for place in self.nameless:
            self._filled[place] += bool(cells[place])

    def judge(self, reading: TableScan, line: int, columns: Sequence[str]) -> None:
        """Drop empty nameless columns, warn about others, and add an error if the first line looks like an example."""
        for place in self.nameless:
            if not self._filled[place]:
                reading.columns.pop(columns[place], None)
        filled = [place for place in self.nameless if self._filled[place]]
        reading.has_row_numbers = 0 in filled
        if filled and filled != [0]:  # a single one at the start numbers the rows, as in pandas and R
            names = ", ".join(repr(columns[place]) for place in filled)
            problem = (
                f"{counted(len(self._filled_lines), 'row')} with a value in a column without a name "
                f"({reading.unit} {shorten(self._filled_lines)}); such columns are named by their position: {names}."
            )
            reading.faults.append(warning(reading.path, problem, "Does it contain the rest of a text?"))
        if reading.settings.header is None and (evidence := self._evidence()):
            reading.faults.append(
                error(
                    f"{reading.path}:{line}",
                    f"the first line looks like an example, not like the names of columns: {evidence}.",
                    "If a later line names the columns, remove what is above it. If none does, write one above"
                    + (
                        _NO_HEADER if "--no-header" in reading.settings.offers else "; if this one does, name a column."
                    ),
                )
            )

    def _evidence(self) -> str:
        names = [name for name in self.header if name]
        if names == [str(place) for place in range(len(names))]:
            return ""  # as pandas writes columns that have no names
        for place, times in self._again.items():
            return f"{self.header[place]!r} is also in {counted(times, 'more row')} of column {place + 1}"
        for name in self.header:
            if len(name) > _LONGEST_NAME or is_sentence(name):
                return f"{name[:60]!r} is a sentence"
        for place in self.nameless[self.nameless[:1] == [0] :]:  # the first one may number the rows
            if self._filled[place] > self.rows / 2:
                return f"column {place + 1} has no name, but values in {counted(self._filled[place], 'row')}"
        if _has_usual_names(self._second) and not _has_usual_names(self.header):
            return f"the next one, {', '.join(map(str, self._second))[:60]!r}, has usual column names"
        return ""


def is_sentence(name: str) -> bool:
    """Return whether a column's name looks like a text: four or more words, with "." or "!" at the end."""
    words = name.split()
    return len(words) >= WORDS_OF_A_SENTENCE and len(words[-1]) > 1 and name[-1] in ".!" and not name[0].isspace()

"""Types for reading tables: settings, rows, an account of every row that was left out, and errors."""

from pathlib import Path
from typing import Any, Literal

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import LeftOut, TaskFault

# Common names of text and label columns, in lower case.
TEXT_NAMES = {"text", "sentence", "message", "body", "content", "question", "review", "comment"}
TEXT_NAMES |= {"description", "utterance"}
LABEL_NAMES = {"label", "class", "category", "intent", "topic", "target", "sentiment", "tag"}


class ReadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to read a file, where its content does not determine this reliably."""

    encoding: str = ""  # "": from the byte-order mark, else UTF-8
    header: bool | None = None  # False: no header, columns are "1", "2", ...; None: an ambiguous first line is an error
    sheet: str = ""  # of a spreadsheet; "": the only one that is not empty
    offers: tuple[str, ...] = ("--encoding", "--no-header", "--sheet", "--skip-broken")  # that errors may suggest
    skip_broken: bool = False  # leave out and count rows that cannot be read, instead of reporting errors


AS_FOUND = ReadSettings()


def check_of_unlabelled(table: str | Path | None, text_column: str | None, encoding: str | None) -> None:
    """Raise InputError if ``text_column`` or ``encoding`` is given without ``table``, the file of --unlabelled."""
    given = {"--text-column": text_column, "--encoding": encoding}
    if not table and (words := " and ".join(name for name, value in given.items() if value)):
        raise InputError(
            f"{words} is for the texts of --unlabelled FILE, which is not given. Give it, or leave {words} out."
        )


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a table as read, in file order. Every row of the file is in ``rows`` or counted in ``left_out``."""

    path: str
    columns: tuple[str, ...]
    rows: dict[int, dict[str, Any]]  # by 1-based line, or by row number in formats without lines (Parquet, hub)
    class_names: dict[str, tuple[str, ...]] = {}  # column -> names of its class numbers, if stored with the data
    unit: Literal["line", "row"] = "line"  # what the keys of ``rows`` count
    left_out: tuple[LeftOut, ...] = ()
    notices: tuple[TaskFault, ...] = ()  # warnings and notes: how ambiguities of the file were resolved


class UnreadRow(msgspec.Struct, frozen=True):
    """Placeholder in a stream of rows for one that cannot be used."""

    reason: str  # as in `LeftOut`
    what: str
    remedy: str = ""
    is_error: bool = True  # False: always left out, never an error
    place: str = ""  # of a row in a shard: the shard's file and line


class TableError(Exception):
    """A file, or the rest of one, cannot be read. ``what`` is the problem; ``line`` is None if unknown."""

    def __init__(self, problem: str, remedy: str = "", line: int | None = None) -> None:
        super().__init__(problem, remedy)
        self.what, self.remedy, self.line = problem, remedy, line


class TableScan(msgspec.Struct, kw_only=True):
    """State of one pass over a file. The readers fill in its properties while they yield its rows."""

    path: Path
    settings: ReadSettings = AS_FOUND
    columns: dict[str, None] = {}  # in file order; complete when the last row has been read
    class_names: dict[str, tuple[str, ...]] = {}
    unit: Literal["line", "row"] = "line"
    has_row_numbers: bool = False  # a first column without a name numbers the rows, as written by pandas and R
    separator: str = ""  # of CSV
    encoding: str = ""  # of CSV; "utf-8" has no byte-order mark
    column_types: dict[str, Any] = {}  # pyarrow's, of Parquet and Arrow files
    faults: list[TaskFault] = []  # of the complete file, not of single rows


Item = tuple[int, dict[str, Any] | UnreadRow]  # line or row number, and the row

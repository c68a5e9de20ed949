"""What reading a table gives: its rows, and an account of every row that is not among them."""

from pathlib import Path
from typing import Any, Literal

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import LeftOut, TaskFault

# How columns are usually called, in small letters.
TEXT_NAMES = {"text", "sentence", "message", "body", "content", "question", "review", "comment"}
TEXT_NAMES |= {"description", "utterance"}
LABEL_NAMES = {"label", "class", "category", "intent", "topic", "target", "sentiment", "tag"}


class ReadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a file does not say of itself for sure."""

    encoding: str = ""  # "" means: by the byte-order mark, else UTF-8
    header: bool | None = None  # False: no line of names, columns are "1", "2", ...; None: a doubtful line is an error
    sheet: str = ""  # of a spreadsheet; "" means: the only one that holds something
    offers: tuple[str, ...] = ("--encoding", "--no-header", "--sheet", "--skip-broken")  # options that errors may name
    skip_broken: bool = False  # rows that cannot be read are left out and counted; else they are errors


AS_FOUND = ReadSettings()


def check_of_unlabelled(table: str | Path | None, text_column: str | None, encoding: str | None) -> None:
    """Raise InputError for what says how the table of --unlabelled is read where there is none."""
    given = {"--text-column": text_column, "--encoding": encoding}
    if not table and (words := " and ".join(name for name, value in given.items() if value)):
        raise InputError(
            f"{words} is for the texts of --unlabelled FILE, which is not given. Give it, or leave {words} out."
        )


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows as they were read, in file order. Every row of the file is in ``rows`` or counted in ``left_out``."""

    path: str
    columns: tuple[str, ...]
    rows: dict[int, dict[str, Any]]  # by 1-based line, or by row number where there are no lines (Parquet, hub)
    class_names: dict[str, tuple[str, ...]] = {}  # per column, what its integers stand for, where the data says so
    unit: Literal["line", "row"] = "line"  # what the keys of ``rows`` count
    left_out: tuple[LeftOut, ...] = ()
    notices: tuple[TaskFault, ...] = ()  # warnings and notes: how the file was understood where that was not plain


class UnreadRow(msgspec.Struct, frozen=True):
    """Stands in a stream of rows for one that cannot be used."""

    reason: str  # the key of `LeftOut`
    what: str
    remedy: str = ""
    is_error: bool = True  # False: left out in any case
    place: str = ""  # in a shard: its file and the line there


class TableError(Exception):
    """A file, or the rest of one, cannot be read: what was got, what to do, and the line where one is known."""

    def __init__(self, problem: str, remedy: str = "", line: int | None = None) -> None:
        super().__init__(problem, remedy)
        self.what, self.remedy, self.line = problem, remedy, line


class TableScan(msgspec.Struct, kw_only=True):
    """One pass over a file. The readers fill in what they learn of it while they yield its rows."""

    path: Path
    settings: ReadSettings = AS_FOUND
    columns: dict[str, None] = {}  # in file order; complete when the last row has been read
    class_names: dict[str, tuple[str, ...]] = {}
    unit: Literal["line", "row"] = "line"
    numbers_rows: bool = False  # in a first column without a name, as pandas and R write it
    separator: str = ""  # of CSV
    encoding: str = ""  # of CSV; "utf-8" has no byte-order mark
    column_types: dict[str, Any] = {}  # pyarrow's, of Parquet and Arrow files
    faults: list[TaskFault] = []  # of the file as a whole


Item = tuple[int, dict[str, Any] | UnreadRow]  # line or row number, and what is there

"""Tables of texts without labels, read row by row."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.engine.machine.content_hash import content_hash_of
from fourshot.pipeline.faults import counted, shorten
from fourshot.pipeline.rows.columns import PART_NAMES
from fourshot.pipeline.rows.fields import input_in, no_text_in
from fourshot.pipeline.tables.file_bytes import KINDS, table_ending
from fourshot.pipeline.tables.files import read_table, stream_table
from fourshot.pipeline.tables.grid import is_sentence
from fourshot.pipeline.tables.split_files import shards_of
from fourshot.pipeline.tables.types import AS_FOUND, TEXT_NAMES, ReadSettings, TableError, TableScan, UnreadRow
from fourshot.pipeline.task import Task

WORDS_OF_A_TEXT = 3  # a column name with this many words may be a text
MADE_FROM = "made_from.json"  # beside a task that `tasks new` wrote: how its table was used
_RESTORE = "Restore it, and repeat the command; or start again with another --out."


class TextTable(msgspec.Struct, frozen=True, kw_only=True):
    """A checked table with its text columns. The file is read again for every pass over the rows."""

    path: Path
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]  # several are joined; empty if an input has fields
    settings: ReadSettings
    content_hash: str
    fields: tuple[str, ...] = ()
    has_row_numbers: bool = False  # a first column without a name numbers the rows
    separator: str = ""  # of CSV
    encoding: str = ""  # of CSV
    column_types: dict[str, Any] = {}  # pyarrow's, of Parquet and Arrow files
    warnings: tuple[str, ...] = ()  # how ambiguities of the file were resolved, and what was left out
    note: str = ""  # which columns are used as texts, if not the usual one

    def rows(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Yield (row, its text or ""), in file order. Memory use is constant but for JSON arrays and spreadsheets.

        Raises InputError if the file cannot be read any more.
        """
        return ((row, self.text_of(row)) for _, row in self._numbered_rows())

    def numbered_texts(self) -> Iterator[tuple[int, str]]:
        """Yield (line or row number, text or "") for every row. Otherwise as `rows`."""
        return ((number, self.text_of(row)) for number, row in self._numbered_rows())

    def _numbered_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            for number, row in stream_table(TableScan(path=self.path, settings=self.settings)):
                if not isinstance(row, UnreadRow):
                    yield number, row
        except TableError as failure:
            raise InputError(f"{self.path} cannot be read any more: {failure.what} {_RESTORE}") from failure

    def check_unchanged(self) -> None:
        """Raise InputError if the file has changed since it was opened."""
        if _hash_of(self.path, self.fields or self.text_columns) != self.content_hash:
            raise InputError(f"{self.path} was changed while its texts were annotated; nothing was written. {_RESTORE}")

    def text_of(self, row: Mapping[str, Any]) -> str:
        """Return the input in a row, or "" if there is none."""
        return input_in(row, self.fields, self.text_columns) or ""

    def texts(self) -> Iterator[str]:
        """Iterate over the texts, without rows that lack one."""
        return (text for _, text in self.rows() if text)


def open_texts(
    path: str | Path, text_column: str | None = None, task: Task | None = None, settings: ReadSettings = AS_FOUND
) -> TextTable:
    """Open a table in any format that `tasks new` reads. ``task`` determines the fields, or the usual text column.

    Raises `InputError` if the file cannot be read, or its text column cannot be determined (`input_columns_of`). Also
    raises it if a field has no column, a text is not a string, or there is no text at all.
    """
    path = Path(path)
    # A given column name implies a header line.
    header = True if text_column and settings.header is None else settings.header
    settings = msgspec.structs.replace(settings, header=header, offers=("--encoding",))
    fields = task.input_fields if task else ()
    reading, left_out = _scanned(path, settings)
    columns = tuple(reading.columns)
    inputs = input_columns_of(path, columns, text_column, task)
    _check_inputs(path, settings, fields, inputs)
    doubt = "" if fields else named_by_first_line(path, columns, text_column)
    note = found_columns(inputs, text_column, task) if len(columns) > 1 and not fields else ""
    return TextTable(
        path=path,
        columns=columns,
        text_columns=() if fields else inputs,
        fields=fields,
        settings=settings,
        has_row_numbers=reading.has_row_numbers,
        separator=reading.separator,
        encoding=reading.encoding,
        column_types=reading.column_types,
        warnings=(
            *(str(fault) for fault in reading.faults if fault.severity == "warning"),
            *(f"{path}: {counted(count, 'row')} left out: {problem}." for problem, count in left_out.items()),
            *([f"{path}: {doubt}."] if doubt else []),
        ),
        note=note and f"{path}: {note}",
        content_hash=_hash_of(path, inputs),
    )


def _hash_of(path: Path, inputs: Sequence[str]) -> str:
    """Return the hash of a table's files, and of the columns that an input is made of."""
    return content_hash_of([path] if path.is_file() else shards_of(path), "\n".join(inputs))


def _scanned(path: Path, settings: ReadSettings) -> tuple[TableScan, Counter[str]]:
    """Read the complete file once. Return its properties, and the number of rows left out by reason.

    In JSON, the first row need not have every column, so that only the complete file determines them. Raises InputError
    if the file or all of its rows cannot be read.
    """
    reading, rows, left_out, is_read = TableScan(path=path, settings=settings), 0, Counter[str](), False
    try:
        for _, row in stream_table(reading):
            if not isinstance(row, UnreadRow):
                rows += 1
            elif row.is_error and not settings.skip_broken:
                break
            else:
                left_out[row.what] += 1
        else:
            is_read = bool(reading.columns)
    except TableError:
        pass
    if not is_read or any(fault.severity == "error" for fault in reading.faults):
        read_table(path, settings)  # raises with all errors
        raise InputError(f"{path} cannot be read as a table.")
    if not rows:
        raise InputError(f"{path} has no rows that can be read. Give at least one.")
    return reading, left_out


def _check_inputs(path: Path, settings: ReadSettings, fields: Sequence[str], inputs: Sequence[str]) -> None:
    """Raise InputError if a text is not a string, or if all texts are blank."""
    has_text, wrong = False, dict[int, str]()
    for line, row in stream_table(TableScan(path=path, settings=settings)):
        if not isinstance(row, UnreadRow):
            text = input_in(row, fields, inputs)
            has_text |= bool(text)
            if text is None:
                wrong[line] = type(row[no_text_in(row, inputs)]).__name__
    column = " or ".join(map(repr, inputs))
    if wrong:
        raise InputError(
            f"{path}:{shorten(list(wrong))}: the text is a {next(iter(wrong.values()))}, it must be a string. Is "
            f"{column} the column of texts?{'' if fields else ' To name another: --text-column NAME.'}"
        )
    if not has_text:
        raise InputError(f"{path}: all texts in the column {column} are blank. Give at least one.")


def input_columns_of(path: Path, columns: Sequence[str], text_column: str | None, task: Task | None) -> tuple[str, ...]:
    """Return the columns of texts: the task's fields, else ``text_column``, else the first that applies of these.

    (1) The columns from which `tasks new` took the task's texts, several to be joined. (2) The only column. (3) The
    only one with a common name, such as Message. (4) The text column of the task's data; 1 and 3 require that it is
    "text". Raises InputError if nothing applies, or if some columns to be joined are missing.
    """
    column_names = ", ".join(map(repr, columns))
    if task and task.input_fields:
        if text_column:
            raise InputError(f"--text-column NAME is for tasks of texts; {task.name} has fields. Leave it out.")
        if missing := [field for field in task.input_fields if field not in columns]:
            raise InputError(
                f"{path} has no column {' and '.join(map(repr, missing))}; the columns are {column_names}. An input of "
                f"{task.name} has the fields {', '.join(task.input_fields)}: give each a column of its name."
            )
        return task.input_fields
    usual = task.data.text_column if task else "text"
    made_from = _columns_made_from(task) if task and usual == "text" and not text_column else ()
    if made_from and set(made_from) <= set(columns):
        return made_from
    if task and len(made_from) > 1 and usual not in columns and set(made_from) & set(columns):
        missing = [column for column in made_from if column not in columns]
        raise InputError(
            f"{path} has no column {' and '.join(map(repr, missing))}; the columns are {column_names}. A text of "
            f"{task.name} is {' and '.join(map(repr, made_from))}, joined. Give the table all of them, or name the one "
            "column that has whole texts: --text-column NAME."
        )
    if not text_column and usual not in columns and len(columns) == 1:
        check_only_name(path, columns[0])
        return (columns[0],)
    if not text_column and usual == "text" and (plain := _plain_column(columns)):
        return (plain,)
    if (column := text_column or usual) in columns:
        return (column,)
    doubt = ""
    if (name := next(filter(_may_be_a_text, columns), "")) and _has_a_line_of_names(path):
        doubt = f" If the first line, with {name[:60]!r}, is a row, write a line above it that names the columns."
    raise InputError(
        f"{path} has no column {column!r}; the columns are {column_names}.{doubt} "
        f"Name that of the texts: --text-column NAME."
    )


class _MadeFrom(msgspec.Struct):
    """The part of a task's `MADE_FROM` that is used here."""

    text_columns: tuple[str, ...] = ()


def _columns_made_from(task: Task) -> tuple[str, ...]:
    """Return the columns from which `tasks new` took the task's texts, several joined; () if that is not recorded."""
    if task.data.folder:
        with suppress(OSError, msgspec.DecodeError):
            made_from = (Path(task.data.folder) / MADE_FROM).read_bytes()
            return msgspec.json.decode(made_from, type=_MadeFrom).text_columns
    return ()


def _plain_column(columns: Sequence[str]) -> str:
    """Return the only column with a common name of texts; "" if there is none, or beside a column of `PART_NAMES`."""
    called = [column for column in columns if column.strip().lower() in TEXT_NAMES | PART_NAMES]
    return called[0] if len(called) == 1 and called[0].strip().lower() in TEXT_NAMES else ""


def check_only_name(path: Path, name: str) -> None:
    """Raise InputError if the name of the only column may be the first text, because such files often lack a header.

    Sentences are not checked here: the table reader reports them.
    """
    if not _may_be_a_text(name) or is_sentence(name) or not _has_a_line_of_names(path):
        return
    raise InputError(
        f"{path}: its first line, {name[:60]!r}, would name its only column. If it is a text, write a line above it "
        f"that names the column, such as text. If it is the name: --text-column {shlex.quote(name)}"
    )


def _may_be_a_text(name: str) -> bool:
    return len(name.split()) >= WORDS_OF_A_TEXT


def found_columns(columns: Sequence[str], text_column: str | None, task: Task | None) -> str:
    """Return a note for the user if none was named and other columns than the usual one are the texts; else ""."""
    if text_column or tuple(columns) == (task.data.text_column if task else "text",):
        return ""
    named = f"the column {columns[0]!r}" if len(columns) == 1 else f"{' and '.join(map(repr, columns))}, joined"
    return f"the texts are those of {named} (to name another: --text-column NAME)"


def named_by_first_line(path: Path, columns: Sequence[str], text_column: str | None) -> str:
    """Return a note for the user that the first line was taken for the column's name, if this is doubtful; else "".

    That is the only column, or a given one whose name may be a text, but not with a common name or without a header.
    """
    name = text_column or columns[0]
    is_plain = not _may_be_a_text(name) if text_column else len(columns) > 1
    is_plain = is_plain or name.strip().lower() in TEXT_NAMES | PART_NAMES or not _has_a_line_of_names(path)
    return "" if is_plain else f"the first line, {name!r}, was used as the name of the column"


def _has_a_line_of_names(path: Path) -> bool:
    return table_kind(path) in ("csv", "spreadsheet")


def table_kind(path: Path) -> str | None:
    return KINDS.get(PurePath(table_ending(path)).stem or table_ending(path))

"""The texts without labels that a user has: which column of which file, which of them, and what is left out."""

import random
from pathlib import Path

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import counted, error, raise_errors, shorten
from fourshot.pipeline.rows.fields import input_in, no_text_in
from fourshot.pipeline.rows.text_table import input_columns_of, named_by_first_line
from fourshot.pipeline.tables.files import ReadSettings, read_table, table_warnings
from fourshot.pipeline.task import Task


class UnlabelledTexts(msgspec.Struct, frozen=True, kw_only=True):
    """Texts with the lines that they stand in, in file order."""

    texts: tuple[tuple[int, str], ...] = ()
    note: str = ""  # for people: the file, the column, how many of how many, and what was left out


def load_unlabelled(
    path: Path, task: Task, most: int, text_column: str = "", seed: int = 0, encoding: str = ""
) -> UnlabelledTexts:
    """Up to ``most`` texts of a table, or of a file with one per line; 0: all. More are drawn from, by ``seed``.

    A label column is not read. Raises InputError for a file that cannot be read, and where the column of texts is
    neither named nor the task's nor plain (`input_columns_of`).
    """
    rows, origin = _rows(path, task, text_column, encoding)
    empty = [line for line, text in rows if not text]
    texts = [(line, text) for line, text in rows if text]
    if not texts:
        raise InputError(f"{path} has no text: {counted(len(rows), 'row')}, all without one. Give a file with texts.")
    chosen = sorted(random.Random(f"{seed}/unlabelled").sample(texts, most)) if 0 < most < len(texts) else texts
    note = f"{counted(len(texts), 'unlabelled text')} in {path}{origin}"
    if len(chosen) < len(texts):
        note += f", {len(chosen)} of them drawn (unlabelled.most)"
    if empty:
        note += f"; {counted(len(empty), 'row')} without a text left out (line {shorten(empty)})"
    return UnlabelledTexts(texts=tuple(chosen), note=note)


def _rows(path: Path, task: Task, text_column: str, encoding: str) -> tuple[list[tuple[int, str]], str]:
    """(line, text) of every row, "" where it has none; and where they stand, for people."""
    # With the column's name given, there is a line of names.
    table = read_table(
        path, ReadSettings(encoding=encoding, header=True if text_column else None, offers=("--encoding",))
    )
    columns = input_columns_of(path, table.columns, text_column, task)
    rows, faults = [], []
    for line, row in table.rows.items():
        text = input_in(row, task.input_fields, columns)
        if text is None:
            column = no_text_in(row, columns)
            problem = f"the text is a {type(row[column]).__name__}, it must be a string."
            faults.append(error(f"{path}:{line}", problem, f"Is {column!r} the column of texts?"))
            continue
        rows.append((line, text))
    raise_errors(faults)
    named = f", column {' and '.join(map(repr, columns))}"
    note = "" if task.input_fields else named_by_first_line(path, table.columns, text_column)
    return rows, "".join((named, *(f"; {fault.what}" for fault in table_warnings(table)), f"; {note}" if note else ""))

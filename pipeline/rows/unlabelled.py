"""Load a user's unlabelled texts: find their column, draw some of them, and report what is left out."""

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
    """Texts with their line numbers, in file order."""

    texts: tuple[tuple[int, str], ...] = ()
    note: str = ""  # for the user: the file, the column, how many of how many, and what was left out


def load_unlabelled(
    path: Path, task: Task, most: int, text_column: str = "", seed: int = 0, encoding: str = ""
) -> UnlabelledTexts:
    """Return up to ``most`` texts of a table, or of a file with one per line, drawn by ``seed`` if it has more; 0: all.

    A label column is ignored. Raises InputError if the file cannot be read, has no text, or has no column of texts that
    can be determined (`input_columns_of`).
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
    """Return (line, text) of every row, with "" for no text; and a note for the user: the column, and warnings."""
    # A given column name implies a header line.
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

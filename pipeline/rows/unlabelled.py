"""Load a user's unlabelled texts: draw some of them, and report what is left out."""

import random
from pathlib import Path

import msgspec

from fourshot.pipeline.faults import counted, shorten
from fourshot.pipeline.rows.text_table import open_texts
from fourshot.pipeline.tables.files import ReadSettings
from fourshot.pipeline.task import Task


class UnlabelledTexts(msgspec.Struct, frozen=True, kw_only=True):
    """Texts with their line numbers, in file order."""

    texts: tuple[tuple[int, str], ...] = ()
    note: str = ""  # for the user: the file, the column, how many of how many, and what was left out


def load_unlabelled(
    path: Path, task: Task, most: int, text_column: str = "", seed: int = 0, encoding: str = ""
) -> UnlabelledTexts:
    """Return up to ``most`` texts of a table, or of a file with one per line, drawn by ``seed`` if it has more; 0: all.

    Of a file that can be streamed, only these are in memory. A label column is ignored. Raises InputError as
    `open_texts`.
    """
    table = open_texts(path, text_column or None, task, ReadSettings(encoding=encoding))
    count, empty = 0, list[int]()
    for line, text in table.numbered_texts():
        if text:
            count += 1
        else:
            empty.append(line)
    texts = ((line, text) for line, text in table.numbered_texts() if text)
    if 0 < most < count:
        places = set(random.Random(f"{seed}/unlabelled").sample(range(count), most))
        texts = (numbered for place, numbered in enumerate(texts) if place in places)
    columns = " and ".join(map(repr, table.fields or table.text_columns))
    warnings = (warning.removeprefix(f"{path}: ").removesuffix(".") for warning in table.warnings)
    note = "; ".join([f"{counted(count, 'unlabelled text')} in {path}, column {columns}", *warnings])
    if 0 < most < count:
        note += f", {most} of them drawn (unlabelled.most)"
    if empty:
        note += f"; {counted(len(empty), 'row')} without a text left out (line {shorten(empty)})"
    return UnlabelledTexts(texts=tuple(texts), note=note)

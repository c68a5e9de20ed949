"""Manage a table that is being annotated: its answers are stored in a folder beside it until it is written."""

import filecmp
from collections.abc import Callable
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.written_table import check_written
from fourshot.pipeline.work_folder import MANIFEST_FILE, Manifest, WorkFolder

ANSWERS_FILE = "answers.jsonl"
UNFINISHED = ".unfinished"  # added to the name of a table: the folder of its answers


def unfinished_folder(out: Path) -> Path:
    """Return the folder of the answers until the table is written. Raises InputError if ``out`` is a folder."""
    if out.is_dir():
        raise InputError(f"{out} is a folder, but a file is needed. Give one, such as --out {out / 'out.csv'}.")
    return out.with_name(f"{out.name}{UNFINISHED}")


def may_be_written(out: Path, beside: WorkFolder, manifest: Manifest, num_texts: int) -> bool:
    """Return whether a kill may have come right after the table ``out`` was written: all its answers still exist.

    `place_table` checks whether the table is made of these answers.
    """
    if not out.exists() or beside.find(MANIFEST_FILE, type(manifest)) != manifest:
        return False
    return num_lines(beside.path / ANSWERS_FILE) == num_texts


def num_lines(file: Path) -> int:
    """Return the number of complete lines, 0 without a file. A line that a kill cut short does not count."""
    if not file.exists():
        return 0
    with file.open("rb") as lines:
        return sum(line.endswith(b"\n") for line in lines)


def place_table(out: Path, beside: WorkFolder, write: Callable[[Path], None]) -> None:
    """Write the table with ``write`` unless it exists. Raises InputError if it exists with another content."""
    if not out.exists():
        write(out)
        return
    again = beside.path / f"again{out.suffix}"
    again.unlink(missing_ok=True)
    write(again)
    is_same = filecmp.cmp(out, again, shallow=False)
    again.unlink()
    if not is_same:
        check_written(out, (), ())

"""A table that is being annotated: its answers lie in a folder beside it, until it is there."""

import filecmp
from collections.abc import Callable
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.written_table import check_written
from fourshot.pipeline.work_folder import MANIFEST_FILE, Manifest, WorkFolder

ANSWERS_FILE = "answers.jsonl"
UNFINISHED = ".unfinished"  # behind the name of a table: the folder of its answers


def unfinished_folder(out: Path) -> Path:
    """Where the answers lie until the table is written. Raises InputError where ``out`` is a folder, and no file."""
    if out.is_dir():
        raise InputError(
            f"{out} is a folder, and the table needs a name: give a file, such as --out {out / 'out.csv'}."
        )
    return out.with_name(f"{out.name}{UNFINISHED}")


def may_be_written(out: Path, beside: WorkFolder, manifest: Manifest, num_texts: int) -> bool:
    """Whether a kill may have come between the table ``out`` and the end: all its answers are there yet.

    Whether the table is the one that they make, `place_table` says.
    """
    if not out.exists() or beside.find(MANIFEST_FILE, type(manifest)) != manifest:
        return False
    return num_lines(beside.path / ANSWERS_FILE) == num_texts


def num_lines(file: Path) -> int:
    """Whole ones: a line that a kill cut short is not there yet."""
    if not file.exists():
        return 0
    with file.open("rb") as lines:
        return sum(line.endswith(b"\n") for line in lines)


def place_table(out: Path, beside: WorkFolder, write: Callable[[Path], None]) -> None:
    """Have ``write`` write the table, where it is not there. Raises InputError where another one is in its place."""
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

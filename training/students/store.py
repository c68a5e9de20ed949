"""Storage of finished students: a folder for each job, with its checkpoint and, once that is complete, its result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fourshot.engine.machine.content_hash import content_hash_of
from fourshot.engine.machine.files import disk_errors, read_made, settle, staged_folder

RESULT_FILE = "result.json"
OnStep = Callable[[int, int, float], None]  # step, planned steps, loss
Result = TypeVar("Result", bound=msgspec.Struct)  # with the fields name and path


def finished_in(folder: Path, kind: type[Result]) -> Result | None:
    """Return the result of the job in ``folder``, with its current path.

    None if it is not finished, or if its checkpoint has no weights, such as after a copy without large files.
    """
    if not (folder / RESULT_FILE).exists():
        return None
    result: Any = read_made(folder / RESULT_FILE, kind)
    checkpoint = (folder / result.name).resolve()
    moved: Result = msgspec.structs.replace(result, path=str(checkpoint))
    return moved if any(checkpoint.glob("*.safetensors")) else None


def save_checkpoint(folder: Path, name: str, model: Any, tokenizer: Any) -> str:
    """Write ``folder``/<name>-<content hash> atomically, and return the name with the hash.

    Raises OSError if the disk is full.
    """
    with disk_errors(folder), staged_folder(folder) as staged:
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        hashed = f"{name}-{content_hash_of(staged.glob('*.safetensors'))}"
        settle(staged, folder / hashed, replace=True)
    return hashed

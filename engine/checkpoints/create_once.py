"""Folders that are expensive to create: created once, under a lock, completely or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path

from fourshot.engine.machine.files import STAGED
from fourshot.engine.machine.locks import held_lock


def create_once(folder: Path, is_whole: Callable[[Path], bool], make: Callable[[Path], None]) -> Path:
    """Create ``folder`` with ``make`` unless it ``is_whole``, and return it. Other processes wait in the meantime.

    ``make`` fills a `staged_folder` beside it and settles that. Its errors are propagated.
    """
    if is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held_lock(folder.parent / f"{folder.name}.lock"):
        if not is_whole(folder):
            # No process is writing here while we hold the lock, so these were left by a killed one.
            for leftover in (folder, *folder.parent.glob(f"*{folder.name}-*{STAGED}")):
                shutil.rmtree(leftover, ignore_errors=True)
            make(folder)
    return folder

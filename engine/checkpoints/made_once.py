"""What is costly to make is made once: under a lock, whole or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path

from fourshot.engine.machine.files import STAGED
from fourshot.engine.machine.locks import held_lock


def made_once(folder: Path, is_whole: Callable[[Path], bool], make: Callable[[Path], None]) -> Path:
    """Have ``make`` fill ``folder`` unless it ``is_whole``; a process that comes meanwhile waits. Returns ``folder``.

    ``make`` fills a `staged_folder` beside it and settles that. Raises what it raises.
    """
    if is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held_lock(folder.parent / f"{folder.name}.lock"):
        if not is_whole(folder):
            # Nobody alive is writing there: what is there is what a killed process left.
            for leftover in (folder, *folder.parent.glob(f"*{folder.name}-*{STAGED}")):
                shutil.rmtree(leftover, ignore_errors=True)
            make(folder)
    return folder

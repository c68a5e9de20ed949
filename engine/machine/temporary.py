"""Folders in the machine's temporary one that belong to a process, and go when nobody lives who needs them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_process_folders: set[str] = set()  # that this process made


def own_folder(beginning: str) -> Path:
    """An empty folder of this process; its name has ``beginning``, then the process id. Removes those of dead ones."""
    sweep(beginning)
    folder = tempfile.mkdtemp(prefix=f"{beginning}{os.getpid()}-")
    _process_folders.add(folder)
    return Path(folder)


@contextmanager
def lent_folder(beginning: str) -> Iterator[Path]:
    """An `own_folder` for the time of the block."""
    folder = own_folder(beginning)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(beginning: str) -> None:
    """Remove the folders of that name that a process which was killed has left behind.

    It may have had our own process id: a container gives every start of its program the same one.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{beginning}*-*"):
        owner = folder.name.removeprefix(beginning).split("-")[0]
        if not owner.isdecimal() or str(folder) in _process_folders:
            continue
        if int(owner) == os.getpid() or not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)

"""Temporary folders that belong to a process, and are removed after it has ended."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_process_folders: set[str] = set()  # folders that this process created


def process_folder(beginning: str) -> Path:
    """Create an empty folder named ``beginning``, process id and a suffix. Removes those of ended processes."""
    sweep(beginning)
    folder = tempfile.mkdtemp(prefix=f"{beginning}{os.getpid()}-")
    _process_folders.add(folder)
    return Path(folder)


@contextmanager
def temporary_folder(beginning: str) -> Iterator[Path]:
    """Create a `process_folder`, and remove it at the end of the block."""
    folder = process_folder(beginning)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(beginning: str) -> None:
    """Remove the folders of that name that killed processes have left.

    Such a process may have had our own process id: in a container, a program gets the same one at every start.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{beginning}*-*"):
        owner = folder.name.removeprefix(beginning).split("-")[0]
        if not owner.isdecimal() or str(folder) in _process_folders:
            continue
        if int(owner) == os.getpid() or not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)

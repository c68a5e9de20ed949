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
    folders = [*Path(tempfile.gettempdir()).glob(f"{beginning}*-*")]  # before the processes: a new one may create one
    others = {*psutil.pids()} - {os.getpid()}
    for folder in folders:
        owner = folder.name.removeprefix(beginning).split("-")[0]
        if owner.isdecimal() and int(owner) not in others and str(folder) not in _process_folders:
            shutil.rmtree(folder, ignore_errors=True)

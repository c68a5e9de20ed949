"""Temporary folders that belong to a process, and are removed after it has ended."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_process_folders: dict[str, int] = {}  # folders that this process created, with the descriptors that lock them


def process_folder(beginning: str) -> Path:
    """Create an empty folder named ``beginning``, process id and a suffix. Removes those of ended processes.

    It is locked until this process ends, so that programs that remove old temporary files leave it alone.
    Source: tmpfiles.d(5), on BSD file locks.
    """
    sweep(beginning)
    folder = tempfile.mkdtemp(prefix=f"{beginning}{os.getpid()}-")
    _process_folders[folder] = descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # its file system may have no locks
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return Path(folder)


@contextmanager
def temporary_folder(beginning: str) -> Iterator[Path]:
    """Create a `process_folder`, and remove it at the end of the block."""
    folder = process_folder(beginning)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(_process_folders.pop(str(folder)))


def sweep(beginning: str) -> None:
    """Remove the folders of that name that killed processes have left.

    Such a process may have had our own process id: in a container, a program gets the same one at every start.
    """
    folders = [*Path(tempfile.gettempdir()).glob(f"{beginning}*-*")]  # before the processes: a new one may create one
    others = {*psutil.pids()} - {os.getpid()}
    for folder in folders:
        owner = folder.name.removeprefix(beginning).split("-")[0]
        if not owner.isdecimal() or int(owner) in others or str(folder) in _process_folders:
            continue
        if not _is_locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_locked(folder: Path) -> bool:
    """Whether a process uses ``folder`` whose id is not known here: in another container, or on another machine."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # its file system has no locks
        return False
    finally:
        os.close(descriptor)
    return False

"""Locks between processes, also across machines. A lock ends with the process that holds it."""

import errno
import fcntl
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fourshot.engine.errors import InputError, RunFolderError

PATIENCE_S = 20.0  # to wait for another process that changes the same file
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # errors of file systems without locks


@contextmanager
def held_lock(file: Path, busy: str = "", wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock on ``file``, which is created if necessary and not removed.

    ``busy`` is the message of the InputError raised if another process holds the lock for ``wait_s``. Without it, this
    waits for as long as necessary. Also raises InputError if the file system has no locks, and RunFolderError if the
    block fails to find a file because the folder of ``file`` was moved in the meantime.
    """
    lock, was_there = FileLock(file), file.exists()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # without flock it uses another kind of lock, which suffices
            lock.acquire(timeout=wait_s if busy else -1)
    except Timeout:
        raise InputError(busy) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        if not was_there:
            file.unlink(missing_ok=True)
        raise InputError(
            f"{file.parent} is on a file system without locks ({error}), so two processes at once would damage its "
            "content. Mount it with locks, or give a place on another disk, such as a local one."
        ) from error
    try:
        yield
    except FileNotFoundError as error:
        if file.parent.exists():
            raise
        raise RunFolderError(
            f"{file.parent} was moved or removed while this command worked there. To resume, run it again with the "
            "folder's new place (--out)."
        ) from error
    finally:
        lock.release()


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Mark ``folder`` as being filled by locking it, if its file system can lock folders."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_update(file: Path) -> Iterator[None]:
    """Exclude other processes from the block, so that rewriting ``file`` within it loses none of their changes.

    The lock is on its folder, so no lock file is left. NFS cannot lock folders and gets a hidden file instead. Raises
    InputError if another process holds the lock for longer than `PATIENCE_S`, and as `held_lock`.
    """
    folder = file.expanduser().resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    busy = (
        f"another process has locked {folder} for more than {PATIENCE_S:g} s, so nothing in it is changed. End that "
        "process (lsof names it), and run the same command again."
    )
    with ExitStack() as held:
        descriptor = os.open(folder, os.O_RDONLY)
        held.callback(os.close, descriptor)
        try:
            _lock(descriptor, busy)
        except OSError:
            held.enter_context(held_lock(folder / f".{file.name}.lock", busy, PATIENCE_S))
        yield


def _lock(descriptor: int, busy: str) -> None:
    """Lock an open folder. Raises OSError if it cannot be locked, InputError if it stays locked for `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InputError(busy) from None
            time.sleep(0.05)

"""The parent of a child process, and ending the child together with it."""

import os
import signal
import sys

PARENT = "FOURSHOT_PARENT"  # in a child's environment: the process id of its parent


def die_with_parent(parent: int | None = None) -> None:
    """Make Linux kill this process when its parent ends, however that happens.

    ``parent`` is the expected process id of the parent. If that has already ended, this process exits immediately.
    """
    _at_parents_end(signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def notice_parents_end() -> None:
    """Undo `die_with_parent`, for a process that watches its parent itself.

    For Linux, the parent is the thread that started this process, which may end before its process.
    """
    _at_parents_end(0)


def _at_parents_end(number: int) -> None:
    """Set the signal that Linux sends to this process when its parent ends; 0 for none. Does nothing elsewhere."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)

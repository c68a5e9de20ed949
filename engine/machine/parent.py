"""Whom a process works for, and that it ends with it."""

import os
import signal
import sys

PARENT = "FOURSHOT_PARENT"  # in a child's environment: the process id of whoever it works for


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to end this process when its parent ends, however that ends.

    ``parent``: the process id it should have. Where that has ended before we could ask, this ends at once.
    """
    _at_parents_end(signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def notice_parents_end() -> None:
    """Undo `die_with_parent`, for who watches it: to Linux the parent is the thread that started this process."""
    _at_parents_end(0)


def _at_parents_end(number: int) -> None:
    """Have Linux send this signal then; 0: none."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)

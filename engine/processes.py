"""Processes that do not outlive whoever they work for."""

import signal
import sys

TOGETHER = "FOURSHOT_DIE_WITH_PARENT"  # in the environment: vLLM's own child processes end with the one that made them


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent ends, however that ends."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)

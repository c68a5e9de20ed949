"""Mutual exclusion: only one thread of the process at a time uses an engine."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# One lock for all engines of the process, because they share vLLM's state of a step and torch's random generator.
LOCK = threading.RLock()
_depth = [0]  # nesting depth in the thread that holds the lock
_deferred: deque[Callable[[], None]] = deque()


@contextmanager
def engine_lock() -> Iterator[None]:
    """Keep other threads from using an engine within the block. Functions of `run_after_lock` run at its end."""
    try:
        with LOCK:
            _depth[0] += 1
            try:
                yield
            finally:
                _depth[0] -= 1
    finally:
        _run_deferred()


def run_after_lock(do: Callable[[], None]) -> None:
    """Call ``do`` while holding the lock: now, or when the thread that holds it leaves its block.

    For calls that can happen at any line of any thread, such as finalizers. These must not wait for another thread,
    which may be waiting for this one, and must not run while an engine is in use.
    """
    _deferred.append(do)
    _run_deferred()


def _run_deferred() -> None:
    while _deferred and LOCK.acquire(blocking=False):
        try:
            if _depth[0]:  # this thread is within a block, whose end will call the rest
                return
            _depth[0] += 1
            try:
                _deferred.popleft()()
            finally:
                _depth[0] -= 1
        finally:
            LOCK.release()

"""Mutual exclusion: only one thread of the process at a time uses an engine."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# One lock for all engines of the process, because they share vLLM's state of a step and torch's random generator.
LOCK = threading.RLock()
_turns = [0]  # nesting depth in the thread that holds the lock
_afterwards: deque[Callable[[], None]] = deque()


@contextmanager
def turn() -> Iterator[None]:
    """Keep other threads from using an engine within the block. Functions deferred with `afterwards` run at its end."""
    try:
        with LOCK:
            _turns[0] += 1
            try:
                yield
            finally:
                _turns[0] -= 1
    finally:
        _catch_up()


def afterwards(do: Callable[[], None]) -> None:
    """Call ``do`` within a turn: now, or at the end of the current turn of any thread.

    For calls that can happen at any line of any thread, such as finalizers. These must not wait for another thread,
    which may be waiting for this one, and must not run in the middle of a turn.
    """
    _afterwards.append(do)
    _catch_up()


def _catch_up() -> None:
    while _afterwards and LOCK.acquire(blocking=False):
        try:
            if _turns[0]:  # this thread is within a turn, whose end will call the rest
                return
            _turns[0] += 1
            try:
                _afterwards.popleft()()
            finally:
                _turns[0] -= 1
        finally:
            LOCK.release()

"""One thread of the process at a time uses an engine."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Of all engines of the process: vLLM keeps what a step is about, and torch its random numbers, once for all of them.
LOCK = threading.RLock()
_turns = [0]  # of the thread that has it: how many it is within
_afterwards: deque[Callable[[], None]] = deque()


@contextmanager
def turn() -> Iterator[None]:
    """Within the block no other thread uses an engine. What waits for the end of it (`afterwards`) is done then."""
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
    """Do it within a turn: now, or at the end of one that is under way, of whichever thread.

    For what may be wanted in any line of any thread, as the end of an object is: it must not wait for another thread,
    which may wait for this one, nor come between the lines of a turn.
    """
    _afterwards.append(do)
    _catch_up()


def _catch_up() -> None:
    while _afterwards and LOCK.acquire(blocking=False):
        try:
            if _turns[0]:  # of this thread
                return
            _turns[0] += 1
            try:
                _afterwards.popleft()()
            finally:
                _turns[0] -= 1
        finally:
            LOCK.release()

"""Imported by a fork server in tests: the second fork fails for lack of memory."""

import os

_fork, _answers = os.fork, iter((True,))


def fork() -> int:
    if next(_answers, False):
        return _fork()
    raise BlockingIOError(11, "Resource temporarily unavailable")


os.fork = fork

"""Imported by a process that is copied in tests: a second copy of it finds no memory."""

import os

_fork, _answers = os.fork, iter((True,))


def fork() -> int:
    if next(_answers, False):
        return _fork()
    raise BlockingIOError(11, "Resource temporarily unavailable")


os.fork = fork

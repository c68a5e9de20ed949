"""What a remote teacher was asked and cost, on the disk before its answers are: a kill loses neither alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from fourshot.engine.machine.files import write_json
from fourshot.pipeline.student_card import REMOTE_FILE, RemoteTeacher

Account = Callable[[], RemoteTeacher | None]
T = TypeVar("T")
P = TypeVar("P")


def accounted(ask: Callable[[P], Iterator[T]], account: Account, folder: Path) -> Callable[[P], Iterator[T]]:
    """``ask``, but whenever answers come, what was asked so far is first written down in ``folder``."""

    def asked(parts: P) -> Iterator[T]:
        for answers in ask(parts):
            keep_account(account, folder)
            yield answers

    return asked


def keep_account(account: Account, folder: Path) -> None:
    """Write down what was asked so far; nothing of a teacher that is none of a remote kind."""
    if so_far := account():
        write_json(folder / REMOTE_FILE, so_far)

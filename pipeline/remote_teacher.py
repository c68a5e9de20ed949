"""The account of a remote teacher: requests, accuracy and cost. It is on disk before the answers are."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from fourshot.engine.machine.files import write_json
from fourshot.pipeline.synthesis.evidence import KindEvidence

REMOTE_FILE = "remote_teacher.json"  # holds a `RemoteTeacher`


class RemoteTeacher(msgspec.Struct, frozen=True, kw_only=True):
    """A teacher behind an OpenAI-compatible address: how it was queried, how accurate it was, and what that cost."""

    endpoint: str
    model: str
    asked: str  # "chat, probabilities of tokens", "completions, 8 votes"
    shots: int  # in its prompt
    requests: int  # whose answers were used
    paid_requests: int  # of these, those that this work paid for; the answers to the others were stored before
    prompt_tokens: int  # of all that were used
    output_tokens: int
    cost: float | None = None  # of all that were used, in the unit of the prices; None: no prices were given
    paid_cost: float | None = None
    outside: float | None = None  # mean probability on no label, over the texts annotated last
    held_out: KindEvidence | None = None  # on shots, each annotated with others in the prompt; None: too few shots


Account = Callable[[], RemoteTeacher | None]
T = TypeVar("T")
P = TypeVar("P")


def accounted(ask: Callable[[P], Iterator[T]], account: Account, folder: Path) -> Callable[[P], Iterator[T]]:
    """Wrap ``ask``: before it yields answers, the account so far is written into ``folder``."""

    def ask_accounted(parts: P) -> Iterator[T]:
        for answers in ask(parts):
            keep_account(account, folder)
            yield answers

    return ask_accounted


def keep_account(account: Account, folder: Path) -> None:
    """Write the account so far into ``folder``; nothing for a teacher that is not remote."""
    if so_far := account():
        write_json(folder / REMOTE_FILE, so_far)

"""What a remote teacher was asked, how right it was and what it cost: on the disk before its answers are."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from fourshot.engine.machine.files import write_json
from fourshot.pipeline.synthesis.evidence import KindEvidence

REMOTE_FILE = "remote_teacher.json"  # of a remote teacher: how it was asked, how right it was, what that cost


class RemoteTeacher(msgspec.Struct, frozen=True, kw_only=True):
    """A teacher behind an OpenAI-compatible address: how it was asked, how right it was, and what that cost."""

    endpoint: str
    model: str
    asked: str  # "chat, probabilities of tokens", "completions, 8 votes"
    shots: int  # in its prompt
    requests: int  # whose answers were used
    paid_requests: int  # of these, those that were paid for here: the others were kept from before
    prompt_tokens: int  # of all that were used
    output_tokens: int
    cost: float | None = None  # of all that were used, in the unit of the prices; None: no prices were given
    paid_cost: float | None = None
    outside: float | None = None  # mean probability on no label, over what was read last
    held_out: KindEvidence | None = None  # on shots, each read with others in the prompt; None: there are too few


Account = Callable[[], RemoteTeacher | None]
T = TypeVar("T")
P = TypeVar("P")


def accounted(ask: Callable[[P], Iterator[T]], account: Account, folder: Path) -> Callable[[P], Iterator[T]]:
    """``ask``, but whenever answers come, what was asked so far is first written down in ``folder``."""

    def ask_accounted(parts: P) -> Iterator[T]:
        for answers in ask(parts):
            keep_account(account, folder)
            yield answers

    return ask_accounted


def keep_account(account: Account, folder: Path) -> None:
    """Write down what was asked so far; nothing of a teacher that is none of a remote kind."""
    if so_far := account():
        write_json(folder / REMOTE_FILE, so_far)

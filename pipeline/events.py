"""Progress events of long steps. The command line draws progress bars from them, `--json` prints them."""

from collections.abc import Callable

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One report of progress."""

    stage: str  # of the work, such as "generate" or "train"; "failed": a task or text is dropped
    message: str = ""  # names the step: another message is another step
    detail: str = ""  # for people; changes from event to event of a step
    done: float = 0.0
    total: float = 0.0  # 0: no measure of progress
    unit: str = ""  # "texts", "steps"
    notice: bool = False  # about the user's files or tasks: shown with --quiet, too
    figures: dict[str, float] = {}  # e.g. {"loss": 0.31}, {"kept": 120, "tokens_per_s": 610}


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An `OnEvent` that does nothing."""


def span(seconds: float) -> str:
    """Format a time for people: ``8 s``, ``3 min``, ``1 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"

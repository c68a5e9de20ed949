"""A fault in what the user gave: how bad, where, what, and the way out. The checks collect these, all of them.

Importing this module loads neither torch nor vllm.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

Severity = Literal["error", "warning", "note"]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. An ``error`` stops a run, a ``warning`` changes what a run sees, a ``note`` is only good to know."""

    severity: Severity
    where: str  # a key such as "$.labels[0].word", or file:line
    what: str  # what was got, and what is allowed
    remedy: str = ""  # what to do next

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" {self.remedy}" if self.remedy else "")


def errors_in(faults: Iterable[Fault]) -> list[Fault]:
    """Only the faults that stop a run."""
    return [fault for fault in faults if fault.severity == "error"]


def shorten(items: Iterable[object], most: int = 5) -> str:
    """``1, 2, 3 and 7 more``: a list in a message must not fill the screen."""
    texts = [str(item) for item in items]
    rest = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {rest} more" if rest > 0 else "")

"""Faults in the user's input: severity, place, problem and remedy. Checks collect all of them before any is raised."""

import difflib
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from fourshot.engine.errors import InputError

MOST_NAMED = 20  # labels in a message
MOST_ALIKE = 10  # faults of a kind that are all listed
SHOWN_ALIKE = 3  # listed faults of a kind that has more than `MOST_ALIKE`
_NAMED = re.compile(r"""('[^']*'|"[^"]*")(, )?|( and )?\d+( \w+)?""")
Severity = Literal["error", "warning", "note"]


class TaskFault(msgspec.Struct, frozen=True):
    """One fault. An ``error`` stops a run, a ``warning`` changes what a run sees, a ``note`` is only good to know."""

    severity: Severity
    where: str  # a key such as "$.labels[0].word", or file:line
    what: str  # what was got, and what is allowed
    remedy: str = ""  # what to do next

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" {self.remedy}" if self.remedy else "")


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one file that were not used, and why."""

    reason: str  # a key, such as "broken_json"
    what: str  # completes "3 rows ..."
    count: int
    lines: tuple[int, ...]  # as `Table.rows` counts


def error(place: object, problem: str, remedy: str = "") -> TaskFault:
    return TaskFault("error", str(place), problem, remedy)


def warning(place: object, problem: str, remedy: str = "") -> TaskFault:
    return TaskFault("warning", str(place), problem, remedy)


def note(place: object, problem: str, remedy: str = "") -> TaskFault:
    return TaskFault("note", str(place), problem, remedy)


def condensed(faults: Sequence[TaskFault], all_of_them: str = " --json lists them all.") -> list[str]:
    """Return the faults for people, a line each.

    Of more than `MOST_ALIKE` that differ only in names and numbers, only the first are listed: with 150 classes there
    may be hundreds of a kind. ``all_of_them`` ends the line that counts the others.
    """
    kinds = [(fault.severity, _NAMED.sub("", fault.what)) for fault in faults]
    count, shown = Counter(kinds), Counter[tuple[str, str]]()
    lines = []
    for fault, kind in zip(faults, kinds, strict=True):
        shown[kind] += 1
        is_long = count[kind] > MOST_ALIKE
        if not is_long or shown[kind] <= SHOWN_ALIKE:
            lines.append(f"{fault.severity}: {fault}")
        if is_long and shown[kind] == SHOWN_ALIKE:
            lines.append(f"{fault.severity}: and {count[kind] - SHOWN_ALIKE} more like this.{all_of_them}")
    return lines


def errors_in(faults: Iterable[TaskFault]) -> list[TaskFault]:
    """Return only the faults that stop a run."""
    return [fault for fault in faults if fault.severity == "error"]


def raise_errors(faults: Iterable[TaskFault]) -> None:
    """Raise `InputError` with the faults that stop a run, one per line, if there are any; of many alike, the first."""
    if errors := errors_in(faults):
        raise InputError("\n".join(line.removeprefix("error: ") for line in condensed(errors, all_of_them="")))


def read_text(path: Path) -> tuple[str, list[TaskFault]]:
    """Read a file as UTF-8, without the byte-order mark of spreadsheets. If it cannot be read so: "" and the fault."""
    if not path.is_file() and not path.is_dir():  # reading a pipe might never end
        problem = "a broken link, a pipe or a device, but a file is needed there."
        return "", [error(str(path), problem, "Put the file there.")]
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError as failure:
        line = raw.count(b"\n", 0, failure.start) + 1
        problem = f"byte 0x{raw[failure.start]:02x} is not valid UTF-8."
        return "", [error(f"{path}:{line}", problem, "Save the file as UTF-8.")]


def nearest(text: str, choices: Iterable[str], otherwise: str = "") -> str:
    """Return "Did you mean ...?" with the most similar of ``choices``, or ``otherwise`` if none is similar."""
    near = difflib.get_close_matches(text, list(choices), n=1)
    return f"Did you mean {near[0]!r}?" if near else otherwise


def shorten(items: Iterable[object], most: int = 5) -> str:
    """Join at most ``most`` items, as in ``1, 2, 3 and 7 more``: a list in a message must not fill the screen."""
    texts = [str(item) for item in items]
    rest = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {rest} more" if rest > 0 else "")


def clipped(text: str, most: int) -> str:
    """Return at most ``most`` characters of ``text``, the last three as "..." where it is cut."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 row``, ``2 rows``."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def as_word(path: str | Path) -> str:
    """Return a path as one word of a command line, which is never taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)

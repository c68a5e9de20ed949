"""Detect what shells and scripts do to options: no value, two values, another dash, a home folder not expanded.

Importing this module loads the standard library and msgspec alone.
"""

import argparse
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import check_mounted

PLACES = ("FOLDER", "FILE", "TABLE")  # metavars of options that are always paths
PERHAPS = (*PLACES, "ADAPTER", "RUN", "TASK", "PATH", "MODEL", "WHO")  # and of options that may be paths
LISTS = ("METHODS", "SEEDS", "TASKS", "ORIGINS", "HOSTS")  # metavars of comma-separated lists
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"  # what editors and web pages put in place of one or two hyphens


def check_given(options: argparse.Namespace, warn: Callable[[str], object]) -> None:
    """Raise InputError for a blank option, a list that is given twice, and an address in place of a path.

    Of another repeated option the last value counts, as in other programs, and ``warn`` reports it: a script may append
    its own options. A blank one is often a script's unset variable. Ignoring it would start a service without keys, or
    use the current folder. A ~ at the beginning of a path is expanded in ``options`` (`at_home`).
    """
    values_by_name: dict[str, list[str]] = {}
    for action, values in options.parser.occurrences:
        is_positional = not action.option_strings or action.nargs == argparse.REMAINDER
        if is_positional or isinstance(action, argparse._AppendAction):
            continue
        name = action.option_strings[-1]
        if any(not value.strip() for value in values):
            raise InputError(f"{name} is blank, perhaps from an unset variable. Give a value, or leave it out.")
        earlier = values_by_name.setdefault(name, values)
        if earlier != values:
            complaint = f"{name} is given twice"
            if name != "--key":  # it is secret
                complaint += f", {' '.join(earlier)!r} and {' '.join(values)!r}"
            if action.nargs or action.metavar in LISTS:
                values_of = "A B" if action.nargs else "A,B"
                raise InputError(f"{complaint}. Give it once, with all values after it: {name} {values_of}.")
            if name == "--text-column":  # only half of each text would be read
                raise InputError(f"{complaint}. Name one, or none for the columns that `tasks new` joined.")
            warn(f"{complaint}: the last counts.")
            values_by_name[name] = values
    for action in options.parser._actions:
        value = getattr(options, action.dest, None)
        if not action.option_strings and action.nargs is None and isinstance(value, str) and not value.strip():
            raise InputError(f"{action.metavar} is blank, perhaps from an unset variable. Give a value.")
        if action.metavar in PERHAPS and isinstance(value, str | Path):
            setattr(options, action.dest, at_home(value))
        if action.metavar in PLACES and value:
            check_mounted(getattr(options, action.dest))


def at_home(place: str | Path) -> str | Path:
    """Expand ~ at the beginning of ``place``, as shells do not in ``--out=~/runs``, unless ``place`` itself exists."""
    if not re.match(r"~(?:/|$)", str(place)) or Path(place).exists():
        return place
    return type(place)(os.path.expanduser(place))


def wrong_dash(words: Sequence[str], flags: Collection[str]) -> str:
    """Return a message on the first word that is an option except for its dashes; "" where there is none."""
    for word in words:
        if word == "--":
            break
        name = word.partition("=")[0].lstrip(DASHES + "-")
        if word[0:1] in DASHES and word and f"--{name}" in flags:
            return f"{word!r} begins with a dash that is not a hyphen, perhaps copied from a document. Type --{name}"
    return ""


def wrong_start(words: Sequence[str], flags: Collection[str]) -> str:
    """Return a message on an option before the command, where argparse would only ask for a command; "" if none."""
    name = words[0].partition("=")[0] if words else ""
    if not name.startswith("-") or name in ("-h", "--help", "--version", "--"):
        return ""
    if name in flags:
        return f"{name} comes before the command. Put options after it: fourshot COMMAND {name}"
    return f"unrecognized arguments: {name}"


def refuse(options: argparse.Namespace, purpose: str, *names: str) -> None:
    """Raise InputError for those of the options ``names`` that are given: they have an effect only for ``purpose``."""
    given = [name for name in names if all(getattr(options, name) is not nothing for nothing in (None, False, ""))]
    if refused := [f"--{name.replace('_', '-')}" for name in given]:
        raise InputError(f"{' and '.join(refused)} {'are' if len(refused) > 1 else 'is'} for {purpose}. Leave it out.")

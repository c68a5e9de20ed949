"""Texts of others as a terminal may show them, and paths as a shell reads them."""

import shlex
from pathlib import Path
from unicodedata import category


def one_line(text: str) -> str:
    """``text`` for a terminal: on one line, in one column, and control characters, which could steer it, as codes."""
    return harmless(" ".join(text.replace("\t", " ").splitlines()))


def harmless(text: str) -> str:
    """``text`` for a terminal: control characters as codes, but for line ends and tabs; a service may have sent it."""
    return "".join(repr(char)[1:-1] if category(char) == "Cc" and char not in "\n\t" else char for char in text)


def as_word(path: str | Path) -> str:
    """A path as one word of a command line, and never as an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)

"""Texts of others as a terminal may show them."""

from unicodedata import category


def one_line(text: str) -> str:
    """``text`` for a terminal: on one line, in one column, and control characters, which could steer it, as codes."""
    return harmless(" ".join(text.replace("\t", " ").splitlines()))


def harmless(text: str) -> str:
    """``text`` for a terminal: control characters as codes, but for line ends and tabs; a service may have sent it."""
    return "".join(repr(char)[1:-1] if category(char) == "Cc" and char not in "\n\t" else char for char in text)

"""Make texts of unknown origin safe to print on a terminal."""

from unicodedata import category


def one_line(text: str) -> str:
    """Return ``text`` for a terminal: on one line, without tabs, and with control characters escaped."""
    return harmless(" ".join(text.replace("\t", " ").splitlines()))


def harmless(text: str) -> str:
    """Escape control characters, except line ends and tabs: a text from a service could steer the terminal."""
    return "".join(repr(char)[1:-1] if category(char) == "Cc" and char not in "\n\t" else char for char in text)

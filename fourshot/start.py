"""Prepare the process of the `fourshot` command. Importing this module loads the standard library alone."""

import os
import sys


def leave_ascii() -> None:
    """Restart the process in UTF-8 mode if the locale is ASCII: paths, texts and class names have all characters.

    Python does so itself for the locale C, unless ``PYTHONUTF8=0``.
    """
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})


def open_streams() -> None:
    """Reopen standard streams that were closed, and have the output escape characters that its encoding lacks.

    The first file or socket that is opened would otherwise take a closed stream's place, and get what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def abandon_output() -> None:
    """Discard what cannot be written to standard output: Python would try again at exit, and print a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def set_missing_home() -> None:
    """Set HOME to fourshot's home, if that is set, for a user without one: libraries would make a folder called ~."""
    from fourshot.engine.machine.home import HOME_VARIABLE

    if os.path.expanduser("~") == "~" and (chosen := os.environ.get(HOME_VARIABLE)):
        os.environ["HOME"] = os.path.abspath(chosen)

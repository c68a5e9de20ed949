"""What the process of the `fourshot` command needs before anything else."""

import os
import sys


def open_streams() -> None:
    """Whoever starts the command may have closed its streams, or have an encoding without half of all characters.

    The first file or socket that is opened would take a closed stream's place, and get what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, so this one
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def lend_home() -> None:
    """A user who has no home gets fourshot's, where there is one: libraries would make a folder called ~."""
    from fourshot.engine.machine.home import HOME_VARIABLE

    if os.path.expanduser("~") == "~" and (chosen := os.environ.get(HOME_VARIABLE)):
        os.environ["HOME"] = os.path.abspath(chosen)

"""The Python of an environment: the supported versions, and the interpreters that exist on this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SUPPORTED = ("3.13", "3.12", "3.11")  # newest first; pyproject.toml says the same as `requires-python`


class SetupError(Exception):
    """Ends the set-up. ``str(error)`` is for the user; ``exit_code`` as in the docstring of `setup_env.py`."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def python_version(python: str | Path) -> str:
    """Return an interpreter's version, such as '3.11', or '' if it does not run.

    A version manager's shim may not run, nor an environment whose folder was moved.
    """
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def candidate_pythons() -> list[str]:
    """Return the interpreters to try, in order: only $PYTHON if it is set, otherwise the supported ones, newest first.

    Raises SetupError if $PYTHON is not supported, or no supported interpreter is found.
    """
    chosen = os.environ.get("PYTHON")
    if chosen:
        version = python_version(chosen)
        if version not in SUPPORTED:
            problem = f"is Python {version}" if version else "does not run"
            raise SetupError(
                f"PYTHON={chosen} {problem}. Allowed: Python {SUPPORTED[-1]} to {SUPPORTED[0]}. "
                "Name another interpreter in PYTHON, or unset it to have one found."
            )
        return [chosen]
    named = [f"python{version}" for version in SUPPORTED if python_version(f"python{version}") == version]
    versions = {name[len("python") :] for name in named}
    if python_version("python3") in set(SUPPORTED) - versions:
        named.append("python3")
    if not named:
        raise SetupError(
            f"No Python {SUPPORTED[-1]} to {SUPPORTED[0]} on the PATH "
            f"(python3 is {python_version('python3') or 'absent'}). "
            "Install one, or name it: make env PYTHON=/path/to/python3.12"
        )
    return named

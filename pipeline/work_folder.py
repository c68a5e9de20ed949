"""A work folder on disk: claimed by a manifest, locked while in use, and consistent after a kill at any moment."""

import errno
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fourshot.engine.alignment import FILLER_KIND
from fourshot.engine.errors import InputError, RunFolderError
from fourshot.engine.machine.files import append_lines, check_mounted, keep_lines, read_lines, write_json
from fourshot.engine.machine.locks import held_lock
from fourshot.pipeline.faults import clipped
from fourshot.pipeline.settings.earlier_names import decode_stored
from fourshot.pipeline.synthesis.settings import AnnotateSettings

MANIFEST_FILE = "manifest.json"
LAYOUT_FILE = "layout.json"  # the layout of prompts; absent where they have no filler, as in earlier versions
WORK_FILE = "remote_work.txt"  # an id under which paid requests are counted, for as long as the folder exists
NO_WORK = (MANIFEST_FILE, "pairs.json", "log.txt", WORK_FILE)
# What a folder holds, by a key of its manifest.
KINDS = {"student": "a distillation", "format": "a corpus", "methods": "a comparison", "model_path": "a run"}
LOCK_FILE = ".lock"
BEGINNING = (MANIFEST_FILE, LAYOUT_FILE, "shots.json", "log.txt", LOCK_FILE)  # files that exist before any result
OURS = (MANIFEST_FILE, "seed", "adapters", "scores", "tasks.json")  # how names in a run's or comparison's folder begin
UNALIGNED = "the folder was begun without filler before prompts (align), and continues without it"
UNSHOWN = "the folder was begun without shots in the annotators' prompts (show_shots), and continues without them"
LONGER = "the folder was begun with another training of its annotators (converged_loss), and continues with it"
CERTAIN = "the folder was begun without label smoothing of generated texts (label_smoothing), and continues without it"
HELD_OUT = "the folder was begun with annotators that each leave some shots out (weights), and continues with them"
DEFAULT = AnnotateSettings()
# Layouts that a folder of an earlier version keeps, where a call has today's defaults: name, then, now.
CONTINUED = (
    ("align", False, True),
    ("show_shots", "never", DEFAULT.show_shots),
    ("converged_loss", 0.0, DEFAULT.converged_loss),
    ("sequences_per_step", 2, DEFAULT.sequences_per_step),
    ("label_smoothing", 0.0, DEFAULT.label_smoothing),
)
OF_SEQUENCES = ("converged_loss", "sequences_per_step")  # settings of the training of annotators that see shots
OF_ANNOTATORS = ("show_shots", *OF_SEQUENCES, "label_smoothing")
REMEDY = "Give another folder (--out) or the settings it was made with, or remove it to start again."
T = TypeVar("T")


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The layout of prompts, and how annotators and classifiers are trained: fixed when a folder is begun."""

    align: bool = False
    filler: str = ""  # `FILLER_KIND` where there is any; earlier versions repeated a special token and said nothing
    show_shots: str = "never"  # `AnnotateSettings.show_shots`; earlier versions did not show annotators any
    weights: str = "held_out"  # the meaning of "auto" in `AnnotateSettings.weights`; earlier versions had no "auto"
    converged_loss: float = 0.0  # `AnnotateSettings.converged_loss`; earlier versions trained to the planned step
    sequences_per_step: int = 2  # `AnnotateSettings.sequences_per_step`; earlier versions always had two
    label_smoothing: float = 0.0  # `AnnotateSettings.label_smoothing`; earlier versions had none

    @classmethod
    def now(cls, align: bool, annotate: AnnotateSettings = DEFAULT) -> "Layout":
        """Return the layout of a folder that this version begins."""
        of_annotators = {name: getattr(annotate, name) for name in OF_ANNOTATORS}
        return cls(align=align, filler=FILLER_KIND if align else "", weights="auto", **of_annotators)


class _BegunAnnotating(msgspec.Struct, frozen=True):
    show_shots: str = "never"
    weights: str = "held_out"
    converged_loss: float = 0.0
    sequences_per_step: int = 2
    label_smoothing: float = 0.0


class _BegunWith(msgspec.Struct, frozen=True):
    align: bool = False
    annotate: _BegunAnnotating = _BegunAnnotating()


class _Begun(msgspec.Struct, frozen=True):
    """The part of a manifest that says how prompts are laid out; earlier versions lack some of it."""

    settings: _BegunWith


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Identifies the work that a folder holds."""

    def identity(self) -> dict[str, Any]:
        """Return all fields that have to be equal for two to mean the same work; not the versions of what made it."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        fields.pop("versions", None)
        return fields


M = TypeVar("M", bound=Manifest)


class WorkFolder:
    """A folder that one piece of work owns."""

    def __init__(self, path: str | Path) -> None:
        check_mounted(path)
        self.path = Path(path)

    def claim(self, manifest: Manifest, *, over_unused: bool = False, remedy: str = REMEDY) -> None:
        """Claim the folder for the work of ``manifest``, or continue that work. Raises as `check_claim` does."""
        self.check_claim(manifest, over_unused=over_unused, remedy=remedy)
        self.path.mkdir(parents=True, exist_ok=True)
        self.write(MANIFEST_FILE, manifest)

    def check_claim(self, manifest: Manifest, *, over_unused: bool = False, remedy: str = REMEDY) -> None:
        """Raise RunFolderError if the folder belongs to another configuration, or holds other files; write nothing.

        ``over_unused``: allow another configuration that made nothing, such as a command that a remote teacher refused.
        """
        file = self.path / MANIFEST_FILE
        if file.exists():
            self._check_kind(type(manifest))
            stored_manifest = self.stored_manifest(type(manifest))
            differences = list(_differences(stored_manifest.identity(), manifest.identity()))
            if differences and not (over_unused and self.is_unused):
                shown = "\n".join(f"  - {difference}" for difference in differences[:8])
                raise RunFolderError(f"{self.path} holds work of another configuration:\n{shown}\n{remedy}")
        elif self.path.is_dir() and any(self.path.iterdir()):
            # What a kill leaves before or while the manifest is written.
            prefixes = (LOCK_FILE, LAYOUT_FILE, *(f".{name}." for name in (LAYOUT_FILE, MANIFEST_FILE)))
            strangers = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith(prefixes))
            if strangers:
                raise RunFolderError(
                    f"{self.path} is not empty and holds no run (found {', '.join(strangers[:5])}). "
                    "Give an empty or a new folder (--out)."
                )

    def stored_manifest(self, kind: type[M]) -> M:
        """Return the folder's manifest. Raises as `read` does."""
        return self.read(MANIFEST_FILE, kind)

    def _check_kind(self, manifest: type[Manifest]) -> None:
        """Raise RunFolderError where the folder holds work of another kind."""
        try:
            stored_keys = msgspec.json.decode((self.path / MANIFEST_FILE).read_bytes(), type=dict[str, Any])
        except msgspec.DecodeError:
            return  # `stored_manifest` raises the error
        kinds = (kind for key, kind in KINDS.items() if key in stored_keys and key not in manifest.__struct_fields__)
        if kind := next(kinds, None):
            raise RunFolderError(
                f"{self.path} holds {kind}, but this command makes something else. Give another folder (--out)."
            )

    @property
    def is_unused(self) -> bool:
        """Whether the folder holds no results: only manifest, log, lock and the like."""
        files = (file.name for file in self.path.rglob("*") if not file.is_dir())
        return all(name in NO_WORK or name.startswith(".") for name in files)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder. Raises InputError where another process works in it, or a file is in its place.

        A folder in which no run was begun is left as it was: absent, or without our lock file. So is a new one in which
        nothing was made before an InputError: the corrected command, such as for another base, may use it.
        """
        places = (self.path, *self.path.parents)
        missing = [folder for folder in places if not folder.exists()]
        if file := next((place for place in places if place.exists() and not place.is_dir()), None):
            raise InputError(f"{file} is a file, but a folder is needed. Give another place (--out).")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(f"{self.path} cannot be created: {error.strerror}. Give another place (--out).") from error
        is_new = all(entry.name == LOCK_FILE for entry in self.path.iterdir())
        busy = f"Another fourshot process works in {self.path}. Wait for it, or give another folder (--out)."
        try:
            with held_lock(self.path / LOCK_FILE, busy):
                try:
                    yield
                except InputError:
                    if is_new:
                        self.forget_beginning()
                    raise
                finally:
                    self._leave_unlocked(was_missing=bool(missing))
        finally:
            for folder in missing:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()

    def _leave_unlocked(self, *, was_missing: bool) -> None:
        """Remove the lock file where no run was begun."""
        entries = self.path.iterdir() if self.path.exists() else ()  # its owner may have removed it
        begun = {entry.name for entry in entries} - {LOCK_FILE}
        if not (begun if was_missing else [name for name in begun if name.startswith(OURS)]):
            (self.path / LOCK_FILE).unlink(missing_ok=True)

    def forget_beginning(self) -> None:
        """Empty the folder, except for its lock file, if it holds no other files than `BEGINNING`."""
        files = (file for file in self.path.rglob("*") if not (file.is_dir() or file.is_symlink()))
        if not all(file.name in BEGINNING for file in files):
            return
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != LOCK_FILE:
                entry.unlink()

    def layout(self, layout: Layout) -> Layout:
        """Return the folder's layout; ``layout`` for a new one.

        A folder of an earlier version keeps its own, as `CONTINUED` lists.

        Raises RunFolderError where it was begun with filler, and ``layout`` has none or this version has another kind.
        """
        if not (self.path.is_dir() and any(entry.name.startswith(OURS) for entry in self.path.iterdir())):
            return layout
        stored_layout = self.read(LAYOUT_FILE, Layout) if self.has(LAYOUT_FILE) else self._manifest_layout()
        if stored_layout.align and stored_layout.filler != FILLER_KIND:
            raise RunFolderError(
                f"{self.path} was begun by an earlier version, whose filler before prompts (align) this one does not "
                "support. Give another folder (--out), or continue with the version that began it."
            )
        for name in ("align", *OF_ANNOTATORS):
            setting = name if name == "align" else f"annotate.{name}"
            then, now = getattr(stored_layout, name), getattr(layout, name)
            if then != now and (name, then, now) not in CONTINUED:
                raise RunFolderError(
                    f"{self.path} was begun with {setting} = {then}, but this call sets {now}. Set it as it was (--set "
                    f"{setting}=...), or give another folder (--out)."
                )
        return stored_layout

    def _manifest_layout(self) -> Layout:
        """Return the layout that the manifest implies: that of a comparison's subfolder has no file of its own."""
        try:
            settings = self.read(MANIFEST_FILE, _Begun).settings
        except (FileNotFoundError, RunFolderError):
            return Layout()  # the manifests of a comparison are in subfolders
        annotate = settings.annotate
        weights = annotate.weights if annotate.weights == "auto" else Layout().weights
        of_annotators = {name: getattr(annotate, name) for name in OF_ANNOTATORS}
        return msgspec.structs.replace(Layout.now(settings.align), weights=weights, **of_annotators)

    def keep_layout(self, layout: Layout) -> None:
        """Write the layout, unless it is that of the first version. To be called before the manifest is written."""
        if layout != Layout():
            self.write(LAYOUT_FILE, layout)
        else:
            (self.path / LAYOUT_FILE).unlink(missing_ok=True)  # left by another start that was killed at once

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        write_json(self.path / name, value)

    def read(self, name: str, kind: type[T]) -> T:
        """Read a JSON file. Raises FileNotFoundError, and RunFolderError where it cannot be read as ``kind``."""
        file = self.path / name
        try:
            return decode_stored(file.read_bytes(), kind)
        except msgspec.DecodeError as error:
            raise RunFolderError(
                f"{file} was written by another version of fourshot, or is damaged; this one cannot read it: "
                f"{error}. Give "
                "another folder (--out), or remove this one to start again."
            ) from error

    def find(self, name: str, kind: type[T]) -> T | None:
        """Read a JSON file as `read` does; None where there is no such file."""
        return self.read(name, kind) if self.has(name) else None

    def append(self, name: str, values: Iterable[Any]) -> None:
        """Append lines of JSON; they are on disk when this returns."""
        append_lines(self.path / name, values)

    def lines(self, name: str, kind: type[T]) -> list[T]:
        """Return all complete lines, without a torn last one that a kill left."""
        return read_lines(self.path / name, kind)

    def keep_lines(self, name: str, count: int) -> None:
        """Cut the file after ``count`` complete lines. Raises RunFolderError where it has fewer."""
        keep_lines(self.path / name, count)


def _differences(stored: Any, current: Any, at: str = "") -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(current, dict):
        for key in sorted(stored.keys() | current.keys()):
            yield from _differences(stored.get(key), current.get(key), f"{at}.{key}" if at else key)
    elif isinstance(stored, list | tuple) and isinstance(current, list | tuple) and len(stored) == len(current):
        for number, pair in enumerate(zip(stored, current, strict=True), start=1):
            yield from _differences(*pair, f"{at}, {number}")
    elif isinstance(stored, list | tuple) and isinstance(current, list | tuple):
        alone = [value for value in (*stored, *current) if value not in stored or value not in current]
        counts = f"the folder has {len(stored)}, this call has {len(current)}"
        yield f"{at}: {counts}" + (f"; only one of them has {clipped(repr(alone[0]), 60)}" if alone else "")
    elif stored != current:
        yield f"{at}: the folder has {clipped(repr(stored), 60)}, this call has {clipped(repr(current), 60)}"

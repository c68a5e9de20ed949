"""The adapters' folder: what is in it, which version of each task is preferred, and what is rejected and why.

This module knows no engine and no HTTP. `serving.models.adapter_sync` acts on what `Registry.read` finds.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial
from pathlib import Path

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel, resolve_model
from fourshot.engine.errors import AdapterError, FourshotError, InputError
from fourshot.engine.machine.files import read_json, write_json
from fourshot.pipeline.card import CARD_FILE, LINK, AdapterCard
from fourshot.pipeline.student_card import STUDENT_FILE, STUDENT_LINK, StudentCard
from fourshot.pipeline.text_student import TextStudentCard
from fourshot.pipeline.work_folder import MANIFEST_FILE
from fourshot.serving.adapter_lookup import find_adapter
from fourshot.serving.api import Refused
from fourshot.serving.models.absent_pins import absent_pins
from fourshot.serving.models.admission import FILES, read_card, read_student, version_key
from fourshot.serving.models.in_context import IN_CONTEXT, InContext, read_in_context

PINS_FILE = "pins.json"
STORE = "adapters"  # of `fourshot train --tasks`: the tasks' folders link to the adapters in it
SEARCH_EVERY_S = 10.0  # for adapters deep inside run folders, which takes longer than a look at a known one

Card = AdapterCard | StudentCard | TextStudentCard
Signature = tuple[tuple[int, int, int, int], ...]  # of each file: mtime, ctime (changes with permissions), size, inode
FindBase = Callable[[], ResolvedModel]


def base_named(name: str | None) -> FindBase:
    """Return a function that finds the base model ``name``. None, the bundled one, is unpacked by its first call.

    Raises ModelNotFoundError at once for a name that leads nowhere.
    """
    find = cache(lambda: resolve_model(name))
    if name is not None:
        find()
    return find


def no_base() -> ResolvedModel:
    """The `FindBase` of a service for students only. Raises AdapterError."""
    raise AdapterError(
        "this service was started for students only and has no base model. Restart it to serve this, too"
    )


class StoredAdapter(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """An adapter or a student in the folder with a valid card. It has not been loaded."""

    card: Card
    folder: Path
    written_at: float  # when its card was written, seconds since the epoch: the newest version of a task is used
    signature: Signature
    at: str = "."  # path in the folder at which it was found, and at which a rejection is listed

    @property
    def name(self) -> str:
        return self.card.name

    @cached_property
    def key(self) -> str:
        """Key of the version, which no other task has; see `version_key`."""
        return version_key(self.card)

    @property
    def is_student(self) -> bool:
        return not isinstance(self.card, AdapterCard)

    @property
    def generates_text(self) -> bool:
        """Whether it is a student of a text generation task."""
        return isinstance(self.card, TextStudentCard)


class FolderContents(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The contents of the folder at one moment."""

    adapters: list[StoredAdapter]  # the same adapter may be there twice, and one of the two be damaged
    faults: list[Refused]  # what is there and cannot be served
    pins: dict[str, str]  # task -> name of the version to use
    in_context: dict[str, InContext] = {}  # by task

    def versions(self, task: str) -> list[StoredAdapter]:
        """Return the versions of ``task``: the pinned one first, then the others, the newest first."""
        stored, pinned = self._by_task.get(task, ()), self.pins.get(task)
        return sorted(stored, key=lambda version: (version.name != pinned, -version.written_at, version.name))

    @property
    def stored(self) -> list[StoredAdapter | InContext]:
        """All that may be loaded."""
        return [*self.adapters, *self.in_context.values()]

    @property
    def refused(self) -> list[Refused]:
        """What is not served, with the reasons, including pins of versions that do not exist."""
        return [*self.faults, *absent_pins(PINS_FILE, self.pins, [adapter.card for adapter in self.adapters])]

    @cached_property
    def _by_task(self) -> dict[str, list[StoredAdapter]]:
        """The adapters by task. Cached, because a server looks up thousands of tasks every second."""
        by_task: dict[str, list[StoredAdapter]] = {}
        for adapter in self.adapters:
            by_task.setdefault(adapter.card.task.name, []).append(adapter)
        return by_task

    @property
    def has_students_only(self) -> bool:
        """Whether there is at least one student, and nothing that needs a base model."""
        return bool(self.adapters) and all(adapter.is_student for adapter in self.adapters) and not self.in_context

    @property
    def tasks(self) -> list[str]:
        return sorted(self._by_task)


Examined = dict[Path, tuple[Signature, StoredAdapter | str]]  # by folder: signature, and adapter or reason


class Registry:
    """Reads the folder repeatedly. Unchanged files are not read again."""

    def __init__(self, root: str | Path, base: FindBase) -> None:
        """``base`` is called when something needs it. Raises InputError if ``root`` is no existing folder."""
        self.root = Path(os.path.normpath(Path(root).expanduser().absolute()))
        if self.root.is_file():
            raise InputError(f"{root} is a file. Name the folder that your adapters are in (--adapters).")
        if not self.root.is_dir():
            raise InputError(f"there is no folder {root}. Make it, or name the one your adapters are in (--adapters).")
        self._base = base
        self._examined: Examined = {}
        self._searched: dict[Path, tuple[float, Path | str]] = {}
        self._pins: dict[str, str] = {}

    def read(self) -> FolderContents:
        """Return what is in the folder now. Raises OSError only if the folder itself cannot be read."""
        places = list(self._places())
        previous, self._examined = self._examined, {}  # what is gone is forgotten
        self._searched = {place: self._searched[place] for place in self._searched.keys() & {*places}}
        adapters: dict[Path, StoredAdapter] = {}  # by path, links followed
        faults: list[Refused] = []
        for folder in places:
            at = place_in(self.root, folder)
            adapter = self._examine(folder, at, previous)
            if isinstance(adapter, str):
                faults.append(Refused(path=at, reason=in_utf8(adapter)))
            else:
                adapters.setdefault(adapter.folder.resolve(), adapter)
        in_context = {}
        for file in sorted(self.root.glob(f"*{IN_CONTEXT}")):
            try:
                self._base()
                entry = read_in_context(file)
                if file.name != entry.at:
                    raise AdapterError(f"it is for the task {entry.task.name}; rename it to {entry.at}")
                in_context[entry.task.name] = entry
            except AdapterError as error:
                faults.append(Refused(path=place_in(self.root, file), reason=in_utf8(str(error))))
        try:
            self._pins = read_pins(self.root)
        except AdapterError as error:  # the last valid pins stay in force
            faults.append(Refused(path=PINS_FILE, reason=str(error)))
        return FolderContents(adapters=list(adapters.values()), faults=faults, pins=self._pins, in_context=in_context)

    def _places(self) -> Iterator[Path]:
        if any((self.root / name).is_file() for name in (CARD_FILE, STUDENT_FILE, MANIFEST_FILE)):
            yield self.root
            return
        for folder in sorted(self.root.iterdir()):
            if not folder.name.startswith(".") and folder.name != STORE:
                try:
                    if not folder.is_dir():
                        continue
                    distillations = _distillations(folder)
                    has_more = not distillations or bool({*folder.iterdir()} - {*distillations})
                except OSError:  # `_examine` reports it
                    distillations, has_more = [], True
                yield from distillations
                if has_more:
                    yield folder

    def _examine(self, place: Path, at: str, previous: "Examined") -> StoredAdapter | str:
        """Return the adapter at ``place``, or why none can be served. ``previous``: results of the last scan."""
        try:
            if not place.resolve().is_relative_to(self.root.resolve()):
                return "a link that leads out of the adapters' folder"
            folder = self._adapter_in(place)
            stats = map(Path.stat, _files(folder))
            signature = tuple((stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino) for stat in stats)
            examined = previous.get(folder)
            if examined is None or examined[0] != signature:
                try:
                    is_student = (folder / STUDENT_FILE).is_file()
                    reader = read_student if is_student else partial(read_card, base=self._base)
                    card: Card = reader(folder, self.root)
                    written_at = (folder / (STUDENT_FILE if is_student else CARD_FILE)).stat().st_mtime
                    adapter: StoredAdapter | str = StoredAdapter(
                        card=card, folder=folder, written_at=written_at, signature=signature, at=at
                    )
                except AdapterError as error:
                    if isinstance(error.__cause__, OSError):
                        raise  # it may be readable the next time
                    adapter = str(error)
                examined = signature, adapter
            self._examined[folder] = examined
            return examined[1]
        except FourshotError as error:
            return str(error)
        except OSError as error:
            return f"it cannot be read: {error}"

    def _adapter_in(self, place: Path) -> Path:
        for name, link in ((CARD_FILE, LINK), (STUDENT_FILE, STUDENT_LINK)):
            if (place / name).is_file():
                return place
            if (place / link / name).is_file():
                return place / link
        searched_at, adapter = self._searched.get(place, (-SEARCH_EVERY_S, ""))
        if time.monotonic() - searched_at >= SEARCH_EVERY_S:
            try:
                adapter = find_adapter(place)
            except FourshotError as error:
                adapter = str(error)
            self._searched[place] = (time.monotonic(), adapter)
        if isinstance(adapter, str):
            raise AdapterError(adapter)
        return adapter


def place_in(root: Path, folder: Path) -> str:
    """Return the path of ``folder`` in ``root``, for messages."""
    return in_utf8(str(folder.relative_to(root)))


def in_utf8(text: str) -> str:
    """Return ``text`` with escapes for bytes that are not UTF-8: file names may have any, responses and logs not."""
    return text.encode("utf-8", "backslashreplace").decode()


def _distillations(folder: Path) -> list[Path]:
    """Return the distillations in a task's folder, such as those beside runs; [] in an adapter, a student or a run."""
    if any((folder / name).exists() for name in (CARD_FILE, STUDENT_FILE, MANIFEST_FILE)):
        return []
    return [card.parent.parent for card in sorted(folder.glob(f"*/{STUDENT_LINK}/{STUDENT_FILE}"))]


def _files(folder: Path) -> list[Path]:
    if (folder / STUDENT_FILE).exists():
        return [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return [folder / name for name in FILES if (folder / name).exists()]


def read_pins(root: Path) -> dict[str, str]:
    """Return the pinned version of each task; {} if there is no file. Raises AdapterError for an invalid one."""
    try:
        return read_json(root / PINS_FILE, dict[str, str])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise AdapterError(f"{PINS_FILE} cannot be read: {error}. Correct it, or remove it and pin again.") from error


def write_pins(root: Path, pins: dict[str, str]) -> None:
    """Replace the pins of the folder."""
    write_json(root / PINS_FILE, dict(sorted(pins.items())))

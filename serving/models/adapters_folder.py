"""The commands `fourshot adapters` on the folder that a server watches. A running server notices within seconds."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fourshot.engine.errors import AdapterError, InputError
from fourshot.engine.machine.files import remove_folder, settle, staged_folder
from fourshot.engine.machine.locks import exclusive_update
from fourshot.pipeline.card import CARD_FILE, AdapterCard, load_card
from fourshot.pipeline.cells.run_folder import SHOTS_FILE
from fourshot.pipeline.events import OnEvent, ignore
from fourshot.pipeline.student_card import STUDENT_FILE, is_text_student, load_student_card
from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.text_student import TextStudentCard, load_text_student_card
from fourshot.pipeline.work_folder import LOCK_FILE, MANIFEST_FILE
from fourshot.serving.adapter_lookup import find_classifier
from fourshot.serving.models.admission import check_file_name, check_hash, check_inside, read_card, read_student
from fourshot.serving.models.in_context import InContext, write_in_context
from fourshot.serving.models.registry import (
    PINS_FILE,
    Card,
    Registry,
    base_named,
    read_pins,
    write_pins,
)


def add_adapter(root: Path, source: str, base: str | None = None) -> tuple[Card, bool]:
    """Copy the adapter or student in the folder ``source`` to ``root``, as the newest. Return its card, and True.

    Its folder gets its content-hashed name. False instead of True: an undamaged copy existed, and is now the newest.
    ``base``: the base model of the server, which an adapter must be made for. Raises InputError if there is no adapter,
    if it is damaged or made for another base, or if its name belongs to another task.
    """
    folder = find_classifier(source)
    find_base = base_named(base)
    is_student = (folder / STUDENT_FILE).is_file()

    def checked(place: Path) -> Card:
        card: Card
        if is_student:
            card = read_student(place, place)
        else:
            for file in (place, *place.rglob("*")):
                check_inside(file, place)
            if base:
                card = read_card(place, place, find_base)
            else:
                check_hash(place, card := load_card(place))
        check_file_name(card.name)
        return card

    try:
        card = checked(folder)
    except AdapterError as error:
        raise InputError(f"{folder} is not added: {error}") from error

    def is_whole(place: Path) -> bool:
        try:
            return checked(place) == card
        except AdapterError:
            return False

    final, card_file = root / card.name, STUDENT_FILE if is_student else CARD_FILE

    def is_there() -> bool:
        """Whether an undamaged copy exists; if so, make it the newest."""
        if not final.exists():
            return False
        if is_whole(final):
            os.utime(final / card_file)
            return True
        if (stored := _card_in(final)) and stored[0].task.name != card.task.name:
            raise InputError(
                f"{folder} is not added: {final} has the same weights, and belongs to the task {stored[0].task.name}. "
                f"To serve both, copy it into {root} under a name of its own."
            )
        return False

    with exclusive_update(root / PINS_FILE):
        if is_there():
            return card, False
    with staged_folder(root, card.name) as staged:
        shutil.copytree(folder, staged, dirs_exist_ok=True, symlinks=False)
        os.utime(staged / card_file)
        with exclusive_update(root / PINS_FILE):  # not while copying: a copy of gigabytes must keep nobody waiting
            if is_there():  # another process was faster
                return card, False
            if final.exists():  # and damaged
                remove_folder(final)
            settle(staged, final)
    return card, True


def warnings_about(root: Path, card: Card) -> list[str]:
    """Return warnings about an adapter or a student: if those in ``root`` have other labels or another base."""
    others = [other for other, _ in _cards(root) if other.name != card.name]
    warnings = []
    labels = _labels(card)
    of_task = [_labels(other) for other in others if other.task.name == card.task.name]
    if before := next((theirs for theirs in of_task if theirs != labels), ()):
        warnings.append(
            f"versions of {card.task.name} there have other labels: {', '.join(before)}; this one with "
            f"{', '.join(labels)}."
        )
    bases = {(o.model_name, o.model_revision) for o in others if isinstance(o, AdapterCard)}
    if isinstance(card, AdapterCard) and bases and (card.model_name, card.model_revision) not in bases:
        warnings.append(
            f"it was trained on {card.model_name} ({card.model_revision}), but the adapters there on "
            f"{', '.join(f'{name} ({revision})' for name, revision in sorted(bases))}. A server has one base, and "
            "refuses adapters of others."
        )
    return warnings


def preferred_to(root: Path, card: Card) -> str:
    """Return why another version of its task in ``root`` is used instead of ``card``; "" if none is."""
    versions = {other.name: written_at for other, written_at in _cards(root) if other.task.name == card.task.name}
    with suppress(AdapterError):
        if pinned_name := read_pins(root).get(card.task.name):
            return "" if pinned_name == card.name else f"{pinned_name} is pinned, and is used as long as it is there."
    newest = max(versions, key=lambda name: versions[name])
    if versions[newest] <= versions[card.name]:
        return ""
    dated = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(versions[newest]))
    return f"{newest} stays in use: its card is dated {dated}, later than now."


def _labels(card: Card) -> tuple[str, ...]:
    return () if isinstance(card, TextStudentCard) else tuple(sorted(card.task.label_names))


def _cards(root: Path) -> Iterator[tuple[Card, float]]:
    """Return the readable cards in the subfolders of ``root``, each with when it was written (seconds since epoch)."""
    return (stored for folder in sorted(root.iterdir()) if (stored := _card_in(folder)))


def _card_in(folder: Path) -> tuple[Card, float] | None:
    """Return the card in ``folder`` with its time of writing; None if there is none that can be read."""
    with suppress(OSError, AdapterError):
        if (file := folder / CARD_FILE).is_file():
            return load_card(folder), file.stat().st_mtime
        if (file := folder / STUDENT_FILE).is_file():
            card = load_text_student_card(folder) if is_text_student(folder) else load_student_card(folder)
            return card, file.stat().st_mtime
    return None


def add_in_context(root: Path, task: Task, settings: RunSettings, on_event: OnEvent = ignore) -> Path:
    """Serve ``task`` in context, with the shots that ``settings`` draw, until it has an adapter. Return the file."""
    examples = TaskData(task, on_event, needs_test=False).shots(settings)
    return write_in_context(root, InContext(task=task, shots=tuple(examples), align=PRESETS["default"].align))


def remove(root: Path, name: str, base: str | None = None) -> list[Path]:
    """Remove all copies of an adapter, or a rejected folder, or a task in context. Return what was removed.

    Raises InputError if there is none called ``name``, and if a run would be damaged.
    """
    registry = Registry(root, base_named(base))
    contents = registry.read()
    adapters = [adapter for adapter in contents.adapters if adapter.name == name]
    for adapter in adapters:
        if adapter.folder.parent != registry.root:  # it would still be found without the link to it
            remedy = f", or serve a folder of its own: fourshot adapters add {adapter.folder} --adapters FOLDER"
            raise _keeps_a_run(f"{name} is a part of {registry.root / adapter.at}", root, remedy)
    folders = [adapter.folder for adapter in adapters]
    if entry := contents.in_context.get(name):  # a refused folder of that name may be the run that is to replace it
        folders.append(root / entry.at)
    else:
        folders += [root / fault.path for fault in contents.refused if fault.path == name]
    for folder in folders:
        if folder == root:
            raise _keeps_a_run(f"{name} is the whole of {root}", root)
        if run := _run_below(folder):
            raise _keeps_a_run(f"{name} holds {run}", root)
    if not folders:
        names = [adapter.name for adapter in contents.adapters]
        names += [*(fault.path for fault in contents.refused), *contents.in_context]
        raise InputError(f"there is no {name!r} in {root}. There are: {', '.join(names) or 'none'}.")
    for folder in folders:
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        else:
            remove_folder(folder)
    if name in contents.pins.values():
        with exclusive_update(root / PINS_FILE):
            write_pins(root, {task: pinned for task, pinned in _pins(root).items() if pinned != name})
    return folders


def _run_below(folder: Path) -> Path | None:
    """Return a run or a distillation, finished or not, in ``folder``, without following links; None without any."""
    if folder.is_symlink():
        return None
    files = (file for name in (MANIFEST_FILE, SHOTS_FILE, LOCK_FILE) for file in folder.rglob(name))
    return next((file.parent for file in files), None)


def _keeps_a_run(what: str, root: Path, remedy: str = "") -> InputError:
    return InputError(f"{what}, which this would damage. Move that folder out of {root}{remedy}.")


def pin(root: Path, name: str, base: str | None = None) -> str:
    """Pin the task of the version ``name`` to it. Return the task. Raises InputError if there is no such version."""
    tasks = {adapter.name: adapter.card.task.name for adapter in Registry(root, base_named(base)).read().adapters}
    if name not in tasks:
        raise InputError(f"there is no adapter {name!r} in {root}. There are: {', '.join(tasks) or 'none'}.")
    with exclusive_update(root / PINS_FILE):
        write_pins(root, {**_pins(root), tasks[name]: name})
    return tasks[name]


def unpin(root: Path, task: str) -> None:
    """Let the newest version of ``task`` be used again. Raises InputError if it is not pinned."""
    with exclusive_update(root / PINS_FILE):
        pins = _pins(root)
        if task not in pins:
            raise InputError(f"{task!r} is not pinned. Pinned are: {', '.join(pins) or 'none'}.")
        write_pins(root, {pinned_task: name for pinned_task, name in pins.items() if pinned_task != task})


def _pins(root: Path) -> dict[str, str]:
    """Return the pins. Raises InputError for an invalid file."""
    try:
        return read_pins(root)
    except AdapterError as error:
        raise InputError(f"{root}: {error}") from error

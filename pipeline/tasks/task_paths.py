"""Several tasks at once: what names, files and folders stand for."""

from collections.abc import Iterable
from pathlib import Path

from fourshot.engine.errors import FourshotError, InputError
from fourshot.pipeline.faults import shorten
from fourshot.pipeline.tables.split_files import find_split_file
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.shots import SHOTS_STEM
from fourshot.pipeline.tasks.task_file import SHIPPED_FOLDER, find_task_file, given_task, shipped_tasks, with_labels


def load_tasks(given: Iterable[Task | str | Path], data: str | Path | None = None) -> dict[str, Task | FourshotError]:
    """The tasks that names, files and folders stand for, by name; where a file is faulty, the error, by its path.

    A folder stands for the task files in it and in the folders directly below it. ``data`` takes the place of the
    tasks' own data: a folder with a folder for each task, named as it, or with the files themselves. A shipped task
    that brings its data keeps them where only others have a folder there. Raises InputError where a path stands for
    nothing, or two tasks have the same name.
    """
    if isinstance(given, str | Path):  # its characters are no tasks
        raise InputError(f"one task, {str(given)!r}, where a list of them is needed. Put it in a list.")
    tasks: dict[str, Task | FourshotError] = {}
    origin: dict[str, Task | Path] = {}
    without_folder: dict[str, FourshotError] = {}  # that bring their data
    for source in _sources(given):
        try:
            task = with_labels(given_task(source))
        except FourshotError as error:
            tasks[source.name if isinstance(source, Task) else str(source)] = error
            continue
        if task.name in tasks:
            raise InputError(
                f"Two tasks are called {task.name!r}: {_named(origin[task.name])} and {_named(source)}. Adapters and "
                "folders are named after tasks: give each a name of its own."
            )
        tasks[task.name], origin[task.name] = task, source
    if data is None:
        return tasks
    for name, source in origin.items():
        try:
            tasks[name] = with_labels(given_task(source, _data_of(name, Path(data), origin)))
        except FourshotError as error:
            own, tasks[name] = tasks[name], error
            folder = own.data.folder if isinstance(own, Task) else None
            is_shipped = SHIPPED_FOLDER.resolve() in Path(folder or "").resolve().parents
            if is_shipped and Path(data).is_dir() and not (Path(data) / name).exists():
                tasks[name], without_folder[name] = own, error
    return tasks if tasks.keys() != without_folder.keys() else {**without_folder}


def _sources(given: Iterable[Task | str | Path]) -> list[Task | Path]:
    """Files, and tasks that were made in Python; what is named twice is there once."""
    sources: list[Task | Path] = []
    for entry in given:
        # A link to a task file stays one: its data lie beside the link.
        files = [] if isinstance(entry, Task) else [file.parent.resolve() / file.name for file in _task_files(entry)]
        of_entry = [entry] if isinstance(entry, Task) else files
        sources += [source for source in of_entry if source not in sources]
    return sources


def _named(source: Task | Path) -> str:
    return "one made in Python" if isinstance(source, Task) else str(source)


def _data_of(name: str, data: Path, names: Iterable[str]) -> Path:
    """The task's own folder in ``data``, or ``data`` itself where the files of all ``names`` are there."""
    if (data / name).is_dir():
        return data / name
    if others := [other for other in names if (data / other).is_dir()]:
        raise InputError(
            f"{data} has no folder {name!r}, and one for {shorten(others)}. Put the task's files into {data / name}."
        )
    if data.is_dir() and not any(find_split_file(data, stem) for stem in ("train", "test", SHOTS_STEM)):
        raise InputError(
            f"{data} has no folder {name!r}, and no train file itself. Put the task's files into {data / name}, or "
            "give the folder that has them (--data)."
        )
    return data


def _task_files(path: str | Path) -> list[Path]:
    if str(path) in shipped_tasks() or not Path(path).is_dir():
        return [find_task_file(path)]
    files = sorted([*Path(path).glob("*.toml"), *Path(path).glob("*/*.toml")])
    if not files:
        raise InputError(
            f"The folder {path} holds no task file (.toml), nor do the folders in it. "
            "To write one from a table: fourshot tasks new TABLE."
        )
    return files

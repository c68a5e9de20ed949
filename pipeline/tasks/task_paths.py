"""Load several tasks from names, files and folders."""

from collections.abc import Iterable
from pathlib import Path

from fourshot.engine.errors import FourshotError, InputError
from fourshot.pipeline.faults import shorten
from fourshot.pipeline.tables.split_files import find_split_file
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.shots import SHOTS_STEM
from fourshot.pipeline.tasks.task_file import SHIPPED_FOLDER, find_task_file, given_task, shipped_tasks, with_labels


def load_tasks(given: Iterable[Task | str | Path], data: str | Path | None = None) -> dict[str, Task | FourshotError]:
    """Return name -> task for names, files and folders. For a faulty file, it is its path -> the error.

    A folder stands for the task files in it and in its direct subfolders. ``data`` replaces the tasks' own data: a
    folder with a subfolder per task, named after it, or with the files themselves. A bundled task that brings its data
    keeps them if only other tasks have a subfolder there. Raises InputError if a path has no task, or if two tasks have
    the same name.
    """
    if isinstance(given, str | Path):  # iterating would take its characters for tasks
        raise InputError(f"one task, {str(given)!r}, but a list of tasks is needed. Put it in a list.")
    tasks: dict[str, Task | FourshotError] = {}
    origin: dict[str, Task | Path] = {}
    without_folder: dict[str, FourshotError] = {}  # bundled tasks with their own data, and why ``data`` has none
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
    """Return the files, and tasks that were made in Python, each once."""
    sources: list[Task | Path] = []
    for entry in given:
        # A link to a task file is not resolved: its data is stored beside the link.
        files = [] if isinstance(entry, Task) else [file.parent.resolve() / file.name for file in _task_files(entry)]
        of_entry = [entry] if isinstance(entry, Task) else files
        sources += [source for source in of_entry if source not in sources]
    return sources


def _named(source: Task | Path) -> str:
    return "one made in Python" if isinstance(source, Task) else str(source)


def _data_of(name: str, data: Path, names: Iterable[str]) -> Path:
    """Return the task's subfolder of ``data``, or ``data`` itself if it has files and no subfolder of any of ``names``.

    Raises InputError otherwise.
    """
    if (data / name).is_dir():
        return data / name
    if others := [other for other in names if (data / other).is_dir()]:
        raise InputError(
            f"{data} has no folder {name!r}, but one for {shorten(others)}. Put the task's files into {data / name}."
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
            f"The folder {path} contains no task file (.toml), nor do the folders in it. "
            "To write one from a table: fourshot tasks new TABLE."
        )
    return files

"""Find a task file by name or path, load it, and report all of its faults at once."""

import difflib
import os
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import InputError, TaskFileError
from fourshot.pipeline.arguments import checked
from fourshot.pipeline.faults import TaskFault, as_word, errors_in
from fourshot.pipeline.tables.file_bytes import table_ending
from fourshot.pipeline.tables.files import scan_table
from fourshot.pipeline.tables.split_files import find_split_file, missing_split, own_splits
from fourshot.pipeline.task import DataSource, Task
from fourshot.pipeline.tasks.data_check import data_faults
from fourshot.pipeline.tasks.generation import KIND, WHAT_WORKS, GenerationTask, PairSource
from fourshot.pipeline.tasks.generation_check import generation_faults, kind_faults, pairs_in
from fourshot.pipeline.tasks.pairs import pair_faults
from fourshot.pipeline.tasks.task_check import read_document, shape_faults, word_faults

SHIPPED_FOLDER = Path(__file__).parent / "shipped"


def shipped_tasks() -> dict[str, Path]:
    """Return name -> task file of every task that comes with fourshot, sorted by name."""
    return {path.stem: path for path in sorted(SHIPPED_FOLDER.glob("*.toml"))}


@checked
def load_task(name_or_path: str | Path, data_folder: str | Path | None = None) -> Task:
    """Load a task with labels, as `load_any_task` does. Also raises `InputError` for a text generation task."""
    return with_labels(load_any_task(name_or_path, data_folder))


@checked
def load_any_task(name_or_path: str | Path, data_folder: str | Path | None = None) -> Task | GenerationTask:
    """Load a shipped task by name ("sst2"), or a task file by path. The data itself is not read.

    The returned task has its folder as an absolute path. ``data_folder`` replaces the file's data source: a folder with
    train and test files, whose columns are those of the task. For a task with a hub data set they may also be ``text``
    and ``label``, or those of `pairs_in`.

    Raises `TaskFileError` with all errors of the file, or `InputError` for an unknown name or a missing folder.
    """
    path = find_task_file(name_or_path)
    task, faults = _read(path, data_folder)
    if task is None:
        raise TaskFileError(str(path), [str(error) for error in errors_in(faults)])
    return task


def given_task(
    task: Task | GenerationTask | str | Path, data_folder: str | Path | None = None
) -> Task | GenerationTask:
    """Return `load_any_task`, or a task made in Python: it is checked like one in a file, and may get other data."""
    if isinstance(task, str | Path):
        return load_any_task(task, data_folder)
    document = _as_in_a_file(task)
    check = generation_faults if isinstance(task, GenerationTask) else shape_faults
    if faults := errors_in(check(document, needs_source=False)):
        raise TaskFileError(f"the task {task.name!r}", [str(fault) for fault in faults])
    return _with_data(task, data_folder)


def _as_in_a_file(value: Any) -> Any:
    """Return structs as TOML tables, without values that equal their default."""
    if isinstance(value, msgspec.Struct):
        fields = {field.name: field for field in msgspec.structs.fields(value)}
        return {
            name: _as_in_a_file(part)
            for name, field in fields.items()
            if (part := getattr(value, name)) not in (field.default, msgspec.UNSET)
        }
    return [_as_in_a_file(part) for part in value] if isinstance(value, list | tuple) else value


def _with_data(task: Task | GenerationTask, data_folder: str | Path | None) -> Task | GenerationTask:
    if data_folder is None:
        return task
    source: Any = task.data
    move: Any = pairs_in if isinstance(source, PairSource) else _with_folder
    return msgspec.structs.replace(task, data=move(source, Path(data_folder).resolve()))


def with_labels(task: Task | GenerationTask) -> Task:
    """Return ``task`` if it has labels. Raises `InputError` for a text generation task."""
    if isinstance(task, GenerationTask):
        raise InputError(
            f"{task.name} is a text generation task: it has inputs and targets, and this needs labels. What works with "
            f"it: {WHAT_WORKS}."
        )
    return task


def check_task(
    name_or_path: str | Path,
    model_tokenizer: Any = None,
    deep: bool = True,
    k: int = 4,
    data_folder: str | Path | None = None,
) -> list[TaskFault]:
    """Return all faults of a task file, then those of its data: errors, warnings and notes.

    ``deep``: check the data too, for which hub data sets may be downloaded. With errors in the file, it is not checked.
    ``k``: shots per class that a run will draw. ``model_tokenizer``: a Hugging Face tokenizer, for which the label
    words are checked. Raises `InputError` only if there is no such file.
    """
    task, faults = _read(find_task_file(name_or_path), data_folder)
    if task is None:
        return faults
    if isinstance(task, GenerationTask):
        return faults + pair_faults(task) if deep else faults
    if model_tokenizer is not None:
        faults += word_faults(task, model_tokenizer)
    return faults + data_faults(task, k) if deep else faults


def _read(path: Path, data_folder: str | Path | None) -> tuple[Task | GenerationTask | None, list[TaskFault]]:
    """Return the task and the faults of its file. The task is None if there are errors."""
    document, faults = read_document(path)
    kind = document.pop("kind", "classification")
    faults = faults or kind_faults(kind)
    check = generation_faults if kind == KIND else shape_faults
    faults = faults or check(document, needs_source=data_folder is None)
    if errors_in(faults):
        return None, faults
    struct: Any = GenerationTask if kind == KIND else Task
    task: Task | GenerationTask = msgspec.convert(document, struct)
    source: Any = task.data
    if data_folder is None and source.folder:
        source = msgspec.structs.replace(
            source, folder=str((path.parent / os.path.expanduser(source.folder)).resolve())
        )
        task = msgspec.structs.replace(task, data=source)
    return _with_data(task, data_folder), faults


def find_task_file(name_or_path: str | Path) -> Path:
    """Return the file of a name or path; a folder stands for the only task file in it. Raises `InputError`."""
    text = str(name_or_path)
    shipped = shipped_tasks()
    path = Path(text)
    if text in shipped:
        if path.is_file() or any(path.glob("*.toml")):
            raise InputError(
                f"{text!r} is a task that comes with fourshot, but {path.resolve()} exists, too. Give that path for "
                "your own; for the other, run the command in another folder."
            )
        return shipped[text]
    if path.is_file():
        if table_ending(path):
            raise InputError(
                f"{text} is a table of texts, not a task file. To make a task of it: fourshot tasks new {as_word(text)}"
            )
        return path
    if path.is_dir():
        files = sorted(path.glob("*.toml"))
        if len(files) == 1:
            return files[0]
        if not files:
            raise InputError(
                f"the folder {text} contains no .toml task file. To write one from a table: fourshot tasks new TABLE."
            )
        names = ", ".join(file.name for file in files)
        raise InputError(f"the folder {text} must contain exactly one .toml task file; it has {names}. Name the file.")
    near = difflib.get_close_matches(text, shipped, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise InputError(
        f"no task {text!r}: it is neither a task file nor a task that comes with fourshot ({', '.join(shipped)})."
        f"{hint} To write a task file from a table: fourshot tasks new TABLE."
    )


def _with_folder(source: DataSource, folder: Path) -> DataSource:
    """Return ``source`` with ``folder`` as its data source. Raises `InputError` if there is no such folder."""
    local = msgspec.structs.replace(source, folder=str(folder), hub="", hub_config="")
    if not folder.is_dir():
        raise InputError(missing_split(local, source.train_split))
    if not source.hub:
        return local
    # The folder may have other columns and split names than the hub: those of the hub are used only if it has them.
    train, test = own_splits(folder, source.test_split)
    local = msgspec.structs.replace(local, train_split=train, test_split=test)
    path = find_split_file(folder, train) or find_split_file(folder, test)
    columns = scan_table(path)[0].columns if path else ()
    return msgspec.structs.replace(
        local,
        text_column=source.text_column if source.text_column in columns else "text",
        label_column=source.label_column if source.label_column in columns else "label",
    )

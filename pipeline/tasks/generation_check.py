"""Check the file of a text generation task, and replace its data source with a folder."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import TaskFault, error, nearest
from fourshot.pipeline.tables.files import scan_table
from fourshot.pipeline.tables.split_files import find_split_file, missing_split
from fourshot.pipeline.tasks.generation import KIND, GenerationTask, PairSource
from fourshot.pipeline.tasks.task_check import empty_faults, sound_parts, source_faults
from fourshot.pipeline.tasks.wording import instruction_form

KINDS = ("classification", KIND)
USUAL_REFERENCES = "targets"


def kind_faults(kind: Any) -> list[TaskFault]:
    """Return an error if ``kind`` in a task file is not a kind of task."""
    if kind in KINDS:
        return []
    problem = f"{kind!r} is not a kind of task; allowed are {' and '.join(map(repr, KINDS))}."
    return [error("$.kind", problem, nearest(str(kind), KINDS, "Leave it out for a task with labels."))]


def generation_faults(document: dict[str, Any], needs_source: bool = True) -> list[TaskFault]:
    """Return faults of a document: unknown or missing keys, wrong types, equal columns, no or two data sources.

    ``document`` does not contain its kind. ``needs_source``: False if the data source is not taken from the file.
    """
    faults: list[TaskFault] = []
    if "labels" in document:
        problem = "a text generation task has no labels."
        faults.append(error("$.labels", problem, "Remove them, or kind if it is a classification task."))
        document = {key: value for key, value in document.items() if key != "labels"}
    sound = sound_parts(document, inspect.type_info(GenerationTask), "$", faults)
    faults += empty_faults(sound, ("name", "instruction", "input_name", "target_name"))
    faults += [*_name_faults(sound), *instruction_form(sound.get("instruction", ""))]
    data = document.get("data", {})
    if isinstance(data, dict):
        faults += source_faults(data.get("hub"), data.get("folder"), data.get("hub_config"), needs_source)
        faults += _column_faults(sound.get("data", {}))
    return faults


def _name_faults(sound: dict[str, Any]) -> list[TaskFault]:
    """Return faults of the names before an input and its target in a prompt."""
    plain = GenerationTask(name="", instruction="")
    names = {key: sound.get(key, getattr(plain, key)).strip() for key in ("input_name", "target_name")}
    faults = [
        error(
            f"$.{key}",
            f"{name!r} cannot begin a line of a prompt: colons and line breaks are not allowed.",
            "Choose another name.",
        )
        for key, name in names.items()
        if ":" in name or len(name.splitlines()) > 1
    ]
    if names["input_name"] and names["input_name"].casefold() == names["target_name"].casefold():
        problem = f"{names['target_name']!r} is $.input_name too; they distinguish input and target in a prompt."
        faults.append(error("$.target_name", problem, "Give each a name of its own."))
    return faults


def _column_faults(data: dict[str, Any]) -> list[TaskFault]:
    inputs = data.get("input_columns", list(PairSource().input_columns))
    if not inputs:
        return [error("$.data.input_columns", "no column is named.", "Name the column of the inputs.")]
    target = data.get("target_column", PairSource().target_column)
    if target in (*inputs, data.get("references_column")):
        problem = f"{target!r} is the column of the targets and of something else."
        return [error("$.data.target_column", problem, "Name different columns.")]
    return []


def pairs_in(source: PairSource, folder: Path) -> PairSource:
    """Return ``source`` with ``folder`` as its data source. Raises `InputError` if there is no such folder.

    The columns of a hub data set are used if the folder has them. Otherwise, they are the defaults of a task file. The
    references are those of the data set, or `USUAL_REFERENCES`, if the folder has that column.
    """
    local = msgspec.structs.replace(source, folder=str(folder), hub="", hub_config="")
    if not folder.is_dir():
        raise InputError(missing_split(local.tables, source.train_split))
    if not source.hub:
        return local
    local = msgspec.structs.replace(local, train_split="train", test_split="test")
    path = find_split_file(folder, "test") or find_split_file(folder, "train")
    columns = scan_table(path)[0].columns if path else ()
    if not {*source.input_columns, source.target_column} <= set(columns):
        plain = PairSource()
        local = msgspec.structs.replace(local, input_columns=plain.input_columns, target_column=plain.target_column)
    references = next((name for name in (source.references_column, USUAL_REFERENCES) if name in columns), "")
    return msgspec.structs.replace(local, references_column=references)

"""A teacher that reads with an engine, and what its answers follow from."""

import hashlib
from typing import Any

import msgspec

from fourshot.engine.calibration import NONE, Calibration
from fourshot.engine.chat import ChatTurns
from fourshot.pipeline.synthesis.committee import Reader
from fourshot.pipeline.synthesis.filters import longest_text
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task


class Teacher(msgspec.Struct, frozen=True, kw_only=True):
    """Readers on a base model, and what they have to know."""

    name: str
    task: Task
    model_path: str
    model_revision: str = ""
    settings: RunSettings
    shots: tuple[Example, ...]
    readers: tuple[Reader, ...] = ()  # none: the base model, shown the shots
    chat: ChatTurns | None = None
    calibration: Calibration = NONE


def answers_hash(teacher: Teacher) -> str:
    """Twelve hex digits that change with what would be answered, wherever the files of readers lie.

    These are named by their content, so they stand for what they were trained on. What is as usual is left out, so a
    committee of trained readers is named as earlier versions named it.
    """
    readers: list[tuple[str, Any]] = []
    for reader in teacher.readers:
        fields = msgspec.to_builtins(msgspec.structs.replace(reader, adapter=None))
        del fields["encoder"]
        files = reader.adapter or reader.encoder
        readers.append((files.name if files else "", fields))
    values, usual = _values_read(teacher.settings), _values_read(RunSettings())
    others: dict[str, Any] = {name: value for name, value in values.items() if value != usual[name]}
    if teacher.calibration != NONE:
        others["calibration"] = teacher.calibration
    if not readers or any(reader.kind == "in context" for reader in teacher.readers):
        others |= _read_in_context(teacher)
    return hashlib.sha256(msgspec.json.encode([readers, others] if others else readers)).hexdigest()[:12]


def _values_read(settings: RunSettings) -> dict[str, Any]:
    """The settings that count whoever reads."""
    annotate = settings.annotate
    return {
        "max_text_words": settings.max_text_words,
        "long_texts": settings.long_texts,
        "weights": annotate.weights,
        "fold_weight": annotate.fold_weight,
    }


def _read_in_context(teacher: Teacher) -> dict[str, Any]:
    """What the answers of a base follow from that is shown the shots."""
    task, settings = msgspec.to_builtins(teacher.task), teacher.settings
    del task["data"]  # it may lie elsewhere tomorrow
    return {
        "task": task,
        "model_revision": teacher.model_revision,
        "shots": teacher.shots,
        "chat": teacher.chat,
        "base_verbalizer": settings.base_verbalizer,
        "aligns": settings.aligns,
        "longest": longest_text(teacher.task, teacher.shots, settings.filter),  # prompts leave room for it
    }

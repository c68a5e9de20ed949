"""A teacher that annotates with an engine, and a hash of everything that determines its predictions."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from fourshot.engine.calibration import NONE, Calibration
from fourshot.engine.chat import ChatTurns
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.evidence import leaves_out_shots
from fourshot.pipeline.synthesis.filters import longest_text
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task


class Teacher(msgspec.Struct, frozen=True, kw_only=True):
    """Annotators on a base model, with everything they need to annotate."""

    name: str
    task: Task
    model_path: str
    model_revision: str = ""
    settings: RunSettings
    shots: tuple[Example, ...]
    annotators: tuple[Annotator, ...] = ()  # none: the base model in context
    chat: ChatTurns | None = None
    calibration: Calibration = NONE


def answers_hash(teacher: Teacher) -> str:
    """Return twelve hex digits that change whenever predictions would, independent of where the files are stored.

    Adapters are named after their content, so their names stand for their training. Settings with their default value
    are left out, so a committee of trained annotators has the same hash as in earlier versions.
    """
    hashed: list[tuple[str, Any]] = []
    for annotator in teacher.annotators:
        fields = msgspec.to_builtins(msgspec.structs.replace(annotator, adapter=None))
        del fields["encoder"]
        files = annotator.adapter or annotator.encoder
        hashed.append((files.name if files else "", fields))
    values, usual = _values_read(teacher.settings, [shot.label for shot in teacher.shots]), _values_read(RunSettings())
    others: dict[str, Any] = {name: value for name, value in values.items() if value != usual[name]}
    if teacher.calibration != NONE:
        others["calibration"] = teacher.calibration
    if not hashed or any(annotator.shown for annotator in teacher.annotators):
        others |= _read_in_context(teacher)
    return hashlib.sha256(msgspec.json.encode([hashed, others] if others else hashed)).hexdigest()[:12]


def _values_read(settings: RunSettings, labels: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings that affect every kind of annotator; ``labels``: of the shots."""
    annotate = settings.annotate
    return {
        "max_text_words": settings.max_text_words,
        "long_texts": settings.long_texts,
        "weights": "held_out" if leaves_out_shots(settings, labels) else "equal",
        "fold_weight": annotate.fold_weight,
    }


def _read_in_context(teacher: Teacher) -> dict[str, Any]:
    """Return everything that determines the predictions of a base model in context."""
    task, settings = msgspec.to_builtins(teacher.task), teacher.settings
    del task["data"]  # the location of the data may change
    return {
        "task": task,
        "model_revision": teacher.model_revision,
        "shots": teacher.shots,
        "chat": teacher.chat,
        "base_verbalizer": settings.base_verbalizer,
        "aligns": settings.aligns,
        "longest": longest_text(teacher.task, teacher.shots, settings.filter),  # prompts reserve tokens for it
    }

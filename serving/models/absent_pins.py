"""Pins of versions that do not exist: another version is used instead, and the user must learn of it."""

from collections.abc import Mapping, Sequence

from fourshot.pipeline.card import AdapterCard
from fourshot.pipeline.student_card import StudentCard
from fourshot.pipeline.text_student import TextStudentCard
from fourshot.serving.api import Refused


def absent_pins(
    file: str, pins: Mapping[str, str], cards: Sequence[AdapterCard | StudentCard | TextStudentCard]
) -> list[Refused]:
    """Return one refusal of ``file`` for all ``pins``, by task, of versions that are not in ``cards``; [] if all are.

    A pin of a task that has no version at all has no effect.
    """
    names, tasks = {card.name for card in cards}, {card.task.name for card in cards}
    reasons = [
        f"{task} is pinned to {name}, which cannot be served from here. Add it (fourshot adapters add), pin another "
        "version, or unpin the task."
        for task, name in sorted(pins.items())
        if task in tasks and name not in names
    ]
    return [Refused(path=file, reason=" ".join(reasons))] if reasons else []

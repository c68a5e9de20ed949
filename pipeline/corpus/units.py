"""What the driver of a corpus and its workers say to each other.

A unit is so many draws for one class of one task. What it asks of an engine follows from its own numbers alone, so it
may be done anywhere, at any time, and again. Importing this module loads neither torch nor vllm.
"""

import msgspec

from fourshot.engine.core import EngineSettings, EngineStats
from fourshot.pipeline.synthesis.annotate import Reader
from fourshot.pipeline.synthesis.attributes import Attributes
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Reason
from fourshot.pipeline.tasks.types import Example, Task


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is started with."""

    engine: EngineSettings


class TaskBrief(msgspec.Struct, frozen=True, kw_only=True, tag="task"):
    """What a worker has to know of a task before its first unit."""

    task: Task
    shots: tuple[Example, ...]
    settings: RunSettings
    readers: tuple[Reader, ...] = ()  # adapters that re-label, where the settings ask for adapters


class Unit(msgspec.Struct, frozen=True, kw_only=True, tag="unit"):
    """``draws`` texts for one class, the first of which is the class's draw number ``first_draw``."""

    task: str
    number: int  # position among the units of the task
    label: str
    first_draw: int
    draws: int
    bias: tuple[tuple[str, float], ...] = ()  # nats by word, for words that the class has over-used so far


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """One text, and what can be said of it without knowing the others."""

    candidate: Candidate
    seed: int  # of its request
    reason: Reason | None = None  # why it is rejected already; None: it was read
    scores: tuple[float, ...] = ()  # nats, raw, by label; empty where nobody read it


class RowFault(msgspec.Struct, frozen=True, kw_only=True):
    """A draw that came to nothing: a line of ``errors.jsonl``."""

    task: str
    label: str
    draw: int
    step: str  # "sample", "score", "engine"
    message: str


class UnitResult(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    """What came of a unit; draws and faults together are as many as the unit's draws."""

    unit: Unit
    draws: tuple[Draw, ...] = ()
    faults: tuple[RowFault, ...] = ()
    content_free: tuple[tuple[float, ...], ...] = ()  # scores of prompts that say nothing, with a task's first unit
    attributes: dict[str, Attributes] = {}  # by class, as this worker listed them, with a task's first unit
    engine: str = ""  # which one, among all that were ever opened
    stats: EngineStats = EngineStats()  # of that engine so far


def all_faulty(unit: Unit, step: str, message: str) -> UnitResult:
    """The result of a unit of which nothing came."""
    numbers = range(unit.first_draw, unit.first_draw + unit.draws)
    faults = [RowFault(task=unit.task, label=unit.label, draw=n, step=step, message=message) for n in numbers]
    return UnitResult(unit=unit, faults=tuple(faults))

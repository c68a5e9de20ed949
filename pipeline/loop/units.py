"""Messages between the driver and its workers: units of work go out, results come back.

A unit's own fields fully determine its work, so it may be done anywhere, at any time, and repeated.
Importing this module loads neither torch nor vllm.
"""

import msgspec

from fourshot.engine.chat import ChatTurns
from fourshot.engine.core import EngineStats
from fourshot.engine.machine.processes import ChildFailure
from fourshot.pipeline.synthesis.attributes import Attributes
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.evidence import KindEvidence
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Reason
from fourshot.pipeline.task import Example, Task

UnitKey = tuple[str, str, int]


class TaskBrief(msgspec.Struct, frozen=True, kw_only=True, tag="brief"):
    """What a worker must know before its first unit of a task."""

    key: str  # unique among tasks that are done together: the task's name in a corpus, the folder of a run
    task: Task
    shots: tuple[Example, ...]
    settings: RunSettings
    chat: ChatTurns | None = None  # of prompts; None: plain text
    annotators: tuple[Annotator, ...] = ()  # of the committee, with the annotator "adapters"
    attributes: dict[str, Attributes] = {}  # by class, if they were listed before; else each worker lists them


class DrawSlice(msgspec.Struct, frozen=True, kw_only=True):
    """Draws for one class: ``draws`` of the ``stream_draws`` prompts of a random stream, from number ``skip`` on."""

    label: str
    draws: int
    stream: str  # seed of the random numbers that determine what the prompts show
    stream_draws: int
    skip: int = 0
    id_prefix: str  # ids are the prefix and a number of ``id_digits`` digits
    id_digits: int
    first_id: int
    seed: int | None  # of the requests; None: the stream's next number after its prompts
    seed_offset: int = 0  # request i has the seed of request number seed_offset + i
    bias: tuple[tuple[str, float], ...] = ()  # nats by word, for words that the class has over-used so far


class DrawUnit(msgspec.Struct, frozen=True, kw_only=True, tag="draw"):
    """Texts to be generated together."""

    brief: str  # key of its brief
    number: int  # position among the draw units of the brief
    batch: int  # round of a run; in a corpus every unit is a batch
    slices: tuple[DrawSlice, ...]
    annotates: bool = False  # the worker that generates the texts annotates the well-formed ones, too
    by_shots: bool = False  # requests are sorted by their shots, for more hits in the prefix cache
    fresh: bool = False  # empty the prefix cache first: the texts are then the same bytes, whatever ran before
    reports: int = 0  # approximate number of progress reports

    @property
    def key(self) -> UnitKey:
        return self.brief, "draw", self.number

    @property
    def size(self) -> int:
        """Number of draws."""
        return sum(part.draws for part in self.slices)


class AnnotationUnit(msgspec.Struct, frozen=True, kw_only=True, tag="read"):
    """Texts to be annotated; the result has their label scores."""

    brief: str
    number: int  # position among the annotation units of the brief
    texts: tuple[str, ...]
    folds: tuple[int | None, ...] = ()  # of each text: the fold whose adapter did not see it; empty: no adapter saw any
    intended: tuple[str, ...] = ()  # of each text: the label it was generated for, "" for none; empty: none has one
    fresh: bool = False

    @property
    def key(self) -> UnitKey:
        return self.brief, "read", self.number

    @property
    def size(self) -> int:
        return len(self.texts)


Unit = DrawUnit | AnnotationUnit


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """One text, with what its worker found without knowing the other texts."""

    candidate: Candidate
    seed: int = 0  # of its request
    reason: Reason | None = None  # why the worker rejected it, if it did
    scores: tuple[float, ...] = ()  # nats, uncalibrated, by label; empty if it was not annotated


class DrawFault(msgspec.Struct, frozen=True, kw_only=True):
    """A failed draw: a line of ``errors.jsonl``."""

    task: str
    label: str
    draw: int
    step: str  # "sample", "score", "engine"
    message: str


class UnitResult(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    """Result of a unit. For a draw unit, ``draws`` and ``faults`` together are as many as its draws."""

    unit: Unit
    draws: tuple[Draw, ...] = ()
    faults: tuple[DrawFault, ...] = ()
    scores: tuple[tuple[float, ...], ...] = ()  # of an annotation unit, nats [num_texts, num_labels]
    agreement: tuple[
        float, ...
    ] = ()  # of an annotation unit, by text: share of annotators that predict the committee's label
    evidence: dict[str, KindEvidence] = {}  # by kind of annotator, with the first texts that a worker annotates
    failure: ChildFailure | None = None  # why the unit cannot be done on any worker, such as an adapter with a fault
    output_tokens: int = 0  # of a draw unit: of all its completions
    attributes: dict[str, Attributes] = {}  # by class, as this worker listed them for its first draw unit
    engine: str = ""  # unique name of the engine among all that were ever opened
    stats: EngineStats = EngineStats()  # of that engine so far


class UnitProgress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Progress of a draw unit with ``reports``."""

    unit: UnitKey
    done: int  # finished draws


def all_faulty(unit: Unit, task: str, step: str, message: str) -> UnitResult:
    """Return the result of a unit that failed completely: ``failure`` for annotations, a fault per draw otherwise."""
    if isinstance(unit, AnnotationUnit):
        return UnitResult(unit=unit, failure=ChildFailure(kind="FourshotError", message=message))
    faults = [
        DrawFault(task=task, label=part.label, draw=part.first_id + number, step=step, message=message)
        for part in unit.slices
        for number in range(part.draws)
    ]
    return UnitResult(unit=unit, faults=tuple(faults))

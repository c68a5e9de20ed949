"""What the driver and its workers send each other: units of work out, results back.

What a unit asks of an engine follows from its own fields alone, so it may be done anywhere, at any time, and again.
Importing this module loads neither torch nor vllm.
"""

import msgspec

from fourshot.engine.chat import ChatTurns
from fourshot.engine.core import EngineStats
from fourshot.engine.machine.processes import ChildFailure
from fourshot.pipeline.synthesis.attributes import Attributes
from fourshot.pipeline.synthesis.committee import Reader
from fourshot.pipeline.synthesis.evidence import KindEvidence
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Reason
from fourshot.pipeline.task import Example, Task

UnitKey = tuple[str, str, int]


class TaskBrief(msgspec.Struct, frozen=True, kw_only=True, tag="brief"):
    """What a worker has to know before its first unit of a task."""

    key: str  # unique among all that is done together: the task's name in a corpus, the folder of a run
    task: Task
    shots: tuple[Example, ...]
    settings: RunSettings
    chat: ChatTurns | None = None  # of prompts; None: plain text
    readers: tuple[Reader, ...] = ()  # adapters that re-label, where the settings ask for adapters
    attributes: dict[str, Attributes] = {}  # by class, where they were listed before; else each worker lists them


class DrawSlice(msgspec.Struct, frozen=True, kw_only=True):
    """Draws for one class: ``draws`` of the ``stream_draws`` prompts of a random stream, from number ``skip`` on."""

    label: str
    draws: int
    stream: str  # seed of the random numbers that decide what the prompts show
    stream_draws: int
    skip: int = 0
    id_prefix: str  # ids are the prefix and a number of ``id_digits`` digits
    id_digits: int
    first_id: int
    seed: int | None  # of the requests; None: the stream's next number after its prompts
    seed_offset: int = 0  # request i is seeded as number seed_offset + i
    bias: tuple[tuple[str, float], ...] = ()  # nats by word, for words that the class has over-used so far


class DrawUnit(msgspec.Struct, frozen=True, kw_only=True, tag="draw"):
    """Texts to be drawn in one go."""

    brief: str  # key of its brief
    number: int  # position among the draw units of the brief
    batch: int  # round of a run; in a corpus every unit is a batch
    slices: tuple[DrawSlice, ...]
    reads: bool = False  # score each well-formed text at once, where it was drawn
    by_shots: bool = False  # requests that begin alike stand side by side, which the prefix cache rewards
    fresh: bool = False  # forget cached prefixes first: the same bytes, whatever ran before
    reports: int = 0  # how often to say how far it is, about

    @property
    def key(self) -> UnitKey:
        return self.brief, "draw", self.number

    @property
    def size(self) -> int:
        """Requests."""
        return sum(part.draws for part in self.slices)


class ReadUnit(msgspec.Struct, frozen=True, kw_only=True, tag="read"):
    """Texts to be read by the annotator: label scores come back."""

    brief: str
    number: int  # position among the read units of the brief
    texts: tuple[str, ...]
    folds: tuple[int | None, ...] = ()  # of each text: the fold whose adapter did not see it; empty: none was seen
    intended: tuple[str, ...] = ()  # of each text: the label that it was drawn for, "" for none; empty: none has one
    fresh: bool = False

    @property
    def key(self) -> UnitKey:
        return self.brief, "read", self.number

    @property
    def size(self) -> int:
        return len(self.texts)


Unit = DrawUnit | ReadUnit


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """One text, and what can be said of it without knowing the others."""

    candidate: Candidate
    seed: int = 0  # of its request
    reason: Reason | None = None  # why it is rejected already
    scores: tuple[float, ...] = ()  # nats, uncalibrated, by label; empty where nobody has read it


class DrawFault(msgspec.Struct, frozen=True, kw_only=True):
    """A draw that came to nothing: a line of ``errors.jsonl``."""

    task: str
    label: str
    draw: int
    step: str  # "sample", "score", "engine"
    message: str


class UnitResult(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    """What came of a unit. Of a draw unit, draws and faults together are as many as its draws."""

    unit: Unit
    draws: tuple[Draw, ...] = ()
    faults: tuple[DrawFault, ...] = ()
    scores: tuple[tuple[float, ...], ...] = ()  # of a read unit, nats [num_texts, num_labels]
    agreement: tuple[float, ...] = ()  # of a read unit: share of a committee's readers that say its label, by text
    evidence: dict[str, KindEvidence] = {}  # by kind of reader, with the first texts that a worker reads
    failure: ChildFailure | None = None  # it cannot be done, here or elsewhere: an adapter does not load, say
    output_tokens: int = 0  # of a draw unit: of all its completions
    attributes: dict[str, Attributes] = {}  # by class, as this worker listed them for its first draw unit
    engine: str = ""  # which one, among all that were ever opened
    stats: EngineStats = EngineStats()  # of that engine so far


class UnitProgress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far a draw unit is that asked for reports."""

    unit: UnitKey
    done: int  # draws


def all_faulty(unit: Unit, task: str, step: str, message: str) -> UnitResult:
    """The result of a unit of which nothing came."""
    if isinstance(unit, ReadUnit):
        return UnitResult(unit=unit, failure=ChildFailure(kind="FourshotError", message=message))
    faults = [
        DrawFault(task=task, label=part.label, draw=part.first_id + number, step=step, message=message)
        for part in unit.slices
        for number in range(part.draws)
    ]
    return UnitResult(unit=unit, faults=tuple(faults))

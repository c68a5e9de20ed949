"""One version of a task's answers, as the server has loaded it, and what loads such versions.

`serving.models.base_model` has those of adapters and of examples alone, `serving.models.students` those of students.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.generation import GenerationTask
from fourshot.pipeline.text_student import TextWritten
from fourshot.serving.api import Method
from fourshot.serving.models.dispatcher import Dispatcher
from fourshot.serving.models.in_context import InContext
from fourshot.serving.models.registry import Card, StoredAdapter
from fourshot.serving.models.scorer import ScoredText


class PreparedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The texts of a request, as a model is to read them."""

    prompts: list[list[int]]  # token ids
    parts: list[int]  # prompts of each text: a long one may be read in several
    cut_words: list[int]  # of each text, that are not read


class Version(Protocol):
    """What a task is answered with."""

    stored: StoredAdapter | InContext
    name: str  # content-hashed; "" where there are examples alone
    card: Card | None  # as it is now: its temperature may be new
    folder: Path | None  # the copy that is served
    left_at: float  # when it ceased to be what answers; monotonic seconds
    in_use: int  # requests that were promised an answer of this version

    @property
    def task(self) -> Task | GenerationTask: ...

    @property
    def methods(self) -> list[Method]:
        """How it can answer, the usual way first."""

    @property
    def dispatcher(self) -> Dispatcher:
        """The queue that its texts wait in."""


class ClassifierVersion(Version, Protocol):
    """What says of texts which label they have."""

    @property
    def task(self) -> Task: ...

    async def prepare(self, texts: Sequence[str], method: Method) -> PreparedRequest:
        """Raises RefusalError for texts that cannot be answered."""

    def work_tokens(self, prepared: PreparedRequest, method: Method) -> int:
        """What will have to be computed."""

    async def score(self, prepared: PreparedRequest, method: Method, asker: str) -> tuple[list[ScoredText], np.ndarray]:
        """One per text, and the label probabilities [num_texts, num_labels]. Raises RefusalError."""


class TimedGeneration(NamedTuple):
    """What was written for one input, and when."""

    written: TextWritten
    queue_s: float  # until the model began
    model_s: float


class GeneratorVersion(Version, Protocol):
    """What writes a text for an input."""

    @property
    def task(self) -> GenerationTask: ...

    async def count_tokens(self, inputs: Sequence[str]) -> list[int]:
        """Of each input, with the most that may be written for it. Raises RefusalError for what cannot be read."""

    async def generate(self, inputs: Sequence[str], tokens: Sequence[int], asker: str) -> list[TimedGeneration]:
        """One per input; ``tokens`` as `count_tokens` gives them. Raises RefusalError."""


class Loader(Protocol):
    """Loads versions of one kind, and gives back what they hold. All is called on the server's event loop."""

    dispatcher: Dispatcher

    @property
    def num_inside(self) -> int:
        """Requests in an engine that routes of others reach, too; there is none unless a loader says so."""
        return 0

    async def admit(self, stored: StoredAdapter | InContext) -> Version:
        """Copy, check, load and try. Raises FourshotError, with the reason, for what cannot be served."""

    def announce(self, version: Version) -> None:
        """It answers from now on."""
        return

    def withdraw(self, version: Version) -> None:
        """It gets nothing new; those who have it may finish."""
        return

    def is_busy(self, version: Version) -> bool:
        """Whether one that was withdrawn may still be in use by routes of others."""
        return False

    async def unload(self, version: Version) -> None:
        """Give back its memory and its copy."""

    async def pin(self, versions: Sequence[Version]) -> None:
        """``versions`` answer now; those of hot tasks are kept where they answer fastest."""
        return

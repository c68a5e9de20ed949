"""Protocols of a loaded version of a task, and of the loaders of versions.

`serving.models.base_model` implements them for adapters and tasks in context, `serving.models.students` for students.
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
    """The texts of a request, prepared for a model."""

    prompts: list[list[int]]  # token ids
    parts: list[int]  # number of prompts of each text: a long one may have several
    cut_words: list[int]  # words cut from each text


class Version(Protocol):
    """A loaded version of a task."""

    stored: StoredAdapter | InContext
    name: str  # content-hashed; "" for a task in context
    card: Card | None  # the current one: its temperature may have changed
    folder: Path | None  # the copy that is served
    left_at: float  # when it went out of use; monotonic seconds
    in_use: int  # requests in progress with this version

    @property
    def task(self) -> Task | GenerationTask: ...

    @property
    def methods(self) -> list[Method]:
        """The methods it offers, the default first."""

    @property
    def dispatcher(self) -> Dispatcher:
        """The queue that its texts wait in."""


class ClassifierVersion(Version, Protocol):
    """A version that predicts labels."""

    @property
    def task(self) -> Task: ...

    async def prepare(self, texts: Sequence[str], method: Method) -> PreparedRequest:
        """Make the prompts of ``texts``. Raises RefusalError for texts that cannot be classified."""

    def work_tokens(self, prepared: PreparedRequest, method: Method) -> int:
        """Return the tokens that will have to be computed."""

    async def score(
        self, prepared: PreparedRequest, method: Method, client: str
    ) -> tuple[list[ScoredText], np.ndarray]:
        """Return one score per text, and the label probabilities [num_texts, num_labels]. Raises RefusalError."""


class TimedGeneration(NamedTuple):
    """The text generated for one input, with times."""

    written: TextWritten
    queue_s: float  # until the model began
    model_s: float


class GeneratorVersion(Version, Protocol):
    """A version that generates a text for an input."""

    @property
    def task(self) -> GenerationTask: ...

    async def count_tokens(self, inputs: Sequence[str]) -> list[int]:
        """Return each input's tokens plus the most that may be generated. Raises RefusalError for an input too long."""

    async def generate(self, inputs: Sequence[str], tokens: Sequence[int], client: str) -> list[TimedGeneration]:
        """Return one text per input; ``tokens`` as from `count_tokens`. Raises RefusalError."""


class Loader(Protocol):
    """Loads versions of one kind, and releases what they hold. All methods are called on the server's event loop."""

    dispatcher: Dispatcher

    @property
    def num_inside(self) -> int:
        """Requests in an engine that is shared with vLLM's own routes; 0 unless a loader overrides it."""
        return 0

    async def admit(self, stored: StoredAdapter | InContext) -> Version:
        """Copy, check, load and try a version. Raises FourshotError, with the reason, if it cannot be served."""

    def announce(self, version: Version) -> None:
        """Take note that ``version`` is in use from now on."""
        return

    def withdraw(self, version: Version) -> None:
        """Take note that ``version`` gets no new requests; those in progress may finish."""
        return

    def is_busy(self, version: Version) -> bool:
        """Whether a withdrawn version may still be in use by vLLM's own routes."""
        return False

    async def unload(self, version: Version) -> None:
        """Free the memory of ``version``, and delete its copy."""

    async def pin(self, versions: Sequence[Version]) -> None:
        """Keep the versions of hot tasks, among ``versions``, where they respond fastest. All of these are in use."""
        return

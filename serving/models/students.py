"""Students: loaded into this process, and computed in batches by a thread of their own. No vllm.

Those that generate texts have a separate queue and thread: a text takes seconds, a label milliseconds.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fourshot.engine.calibration import NONE, apply
from fourshot.engine.errors import AdapterError, InputError
from fourshot.pipeline.card import AdapterCard
from fourshot.pipeline.rows.fields import encoder_text
from fourshot.pipeline.student_card import StudentCard, student_left_out
from fourshot.pipeline.text_student import Generator, TextStudentCard, TextWritten
from fourshot.serving.answers import RefusalError
from fourshot.serving.api import Method
from fourshot.serving.concurrency import all_or_none, without_panics
from fourshot.serving.models.admission import check_tokenizer, stage_student
from fourshot.serving.models.dispatcher import BASE, LEAST_WINDOW_TOKENS, Dispatcher
from fourshot.serving.models.in_context import InContext
from fourshot.serving.models.registry import Card, StoredAdapter
from fourshot.serving.models.scorer import ScoredText, combined_answers
from fourshot.serving.models.tokenizer_probe import WARM_UP_TEXTS
from fourshot.serving.models.version import Loader, PreparedRequest, TimedGeneration, Version
from fourshot.serving.settings import Limits
from fourshot.training.students.serving_model import ServingModel

WINDOW_TOKENS = 8192  # let in before the rate of students on this machine is known
BATCH = 64  # texts that are computed together; then it is another student's turn
WRITTEN_BATCH = 8  # the same for generated texts, which all take as long as the longest of them
WRITTEN_TOKENS = WRITTEN_BATCH * 256  # of such a batch, inputs included: it is let in at once, however slow it is


def queue_of(
    limits: Limits, slots: int = 1, window_tokens: int = WINDOW_TOKENS, least_tokens: int = LEAST_WINDOW_TOKENS
) -> Dispatcher:
    """Return a queue in front of a model, with ``limits``."""
    return Dispatcher(
        slots=slots,
        window_tokens=window_tokens,
        least_window_tokens=least_tokens,
        max_wait_s=limits.max_wait_ms / 1000,
        max_queue_s=limits.max_queue_s,
    )


def open_students(staging: Path, limits: Limits) -> "tuple[Students, Students]":
    """Return the loader of classifiers, and that of students that generate texts."""
    writing = queue_of(limits, window_tokens=WRITTEN_TOKENS, least_tokens=WRITTEN_TOKENS)
    return Students(staging, queue_of(limits)), Students(staging, writing, WRITTEN_BATCH)


class Students(Loader):
    """Loads students, and computes batches for all of them."""

    def __init__(self, staging: Path, dispatcher: Dispatcher, batch: int = BATCH) -> None:
        self._staging, self.dispatcher, self._batch = staging, dispatcher, batch
        self._thread = ThreadPoolExecutor(1, "students")
        self._waiting: dict[AnyVersion, list[_Question]] = {}  # in order of first arrival
        self._working: asyncio.Task[None] | None = None

    async def admit(self, stored: StoredAdapter | InContext) -> "AnyVersion":
        assert isinstance(stored, StoredAdapter)
        return await asyncio.get_running_loop().run_in_executor(None, self._open, stored)

    def _open(self, stored: StoredAdapter) -> "AnyVersion":
        card = stored.card
        assert not isinstance(card, AdapterCard)
        folder, onnx_file = stage_student(stored.folder, card, self._staging)
        try:
            check_tokenizer(folder)
            if isinstance(card, TextStudentCard):
                writer = Generator(folder)
                writer.generate(WARM_UP_TEXTS[:1])
                return TextStudentVersion(self, stored, card, folder, writer)
            model = ServingModel(folder, onnx_file, card.training.max_tokens, len(card.labels))
            model.logits(model.encode(WARM_UP_TEXTS))  # tries it, and loads its kernels
            return StudentVersion(self, stored, card, folder, model)
        except BaseException as error:  # of any type, even a Rust panic: whatever it is, the student is unusable
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, AdapterError):
                raise
            raise AdapterError(f"it cannot be loaded: {error}") from error

    async def unload(self, version: Version) -> None:
        if version.folder is not None:
            await asyncio.to_thread(shutil.rmtree, version.folder, ignore_errors=True)

    async def ask(
        self, version: "AnyVersion", model_input: Any, tokens: int, after_tokens: int, client: str
    ) -> tuple[Any, float, float]:
        """Return what ``version`` computes for one text, the seconds until it began, and the seconds it took.

        ``model_input``: the text as `compute` takes it, ``tokens`` tokens of work. ``after_tokens`` and ``client`` as
        for `Dispatcher.turn`. If cancelled, it leaves the queue.
        """
        arrived = time.monotonic()
        await self.dispatcher.turn(BASE, tokens, after_tokens, client)
        is_computed = False
        try:
            question = _Question(model_input, asyncio.get_running_loop().create_future())
            self._waiting.setdefault(version, []).append(question)
            if self._working is None or self._working.done():
                self._working = asyncio.create_task(self._work())
            answer, began, ended = await question.answer
            is_computed = True
        finally:
            self.dispatcher.done(tokens, is_computed=is_computed)
        return answer, began - arrived, ended - began

    async def _work(self) -> None:
        """Compute what waits, a batch of one student at a time."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            version = next(iter(self._waiting))
            waiting = self._waiting.pop(version)
            batch, rest = waiting[: self._batch], waiting[self._batch :]
            if rest:
                self._waiting[version] = rest  # behind the other students
            batch = [question for question in batch if not question.answer.done()]
            if not batch:
                continue
            began = time.monotonic()
            compute: Callable[[Sequence[Any]], Any] = version.compute
            inputs = [question.model_input for question in batch]
            answers = await loop.run_in_executor(self._thread, _computed, compute, inputs)
            ended = time.monotonic()
            for question, answer in zip(batch, answers, strict=True):
                if question.answer.done():
                    continue
                if isinstance(answer, Exception):
                    question.answer.set_exception(answer)
                else:
                    question.answer.set_result((answer, began, ended))


def _computed(compute: Callable[[Sequence[Any]], Any], inputs: Sequence[Any]) -> list[Any]:
    """Return what ``compute`` returns for each of ``inputs``, or the error of one that it fails on, even alone.

    A batch has texts of several clients, and the text of one must not fail those of the others.
    """
    try:
        return [*without_panics(compute, inputs)]
    except Exception as error:
        if len(inputs) == 1:
            return [error]
        half = len(inputs) // 2
        return _computed(compute, inputs[:half]) + _computed(compute, inputs[half:])


class _Question(NamedTuple):
    model_input: Any
    answer: "asyncio.Future[tuple[Any, float, float]]"


class _Student:
    """Common to all loaded students: `serving.models.version.Version` without the task."""

    def __init__(self, students: Students, stored: StoredAdapter, card: Card, folder: Path) -> None:
        self._students, self.dispatcher = students, students.dispatcher
        self.stored: StoredAdapter | InContext = stored
        self.card: Card | None = card
        self.folder: Path | None = folder
        self.name = card.name
        self.methods: list[Method] = ["student"]
        self.left_at, self.in_use = 0.0, 0


class StudentVersion(_Student):
    """A loaded classifier. Implements `serving.models.version.ClassifierVersion`."""

    def __init__(
        self, students: Students, stored: StoredAdapter, card: StudentCard, folder: Path, model: ServingModel
    ) -> None:
        super().__init__(students, stored, card, folder)
        self.task, self.model, self._max_tokens = card.task, model, card.training.max_tokens

    async def prepare(self, texts: Sequence[str], method: Method) -> PreparedRequest:
        return await asyncio.to_thread(without_panics, self._read, texts)

    def _read(self, texts: Sequence[str]) -> PreparedRequest:
        parts = [self.model.parts(encoder_text(self.task, text, self._max_tokens)) for text in texts]
        cut_words = [student_left_out(self.task, text, self._max_tokens, self.model.read_chars) for text in texts]
        prompts = self.model.encode([part for windows in parts for part in windows])
        return PreparedRequest(prompts=prompts, parts=list(map(len, parts)), cut_words=cut_words)

    def work_tokens(self, prepared: PreparedRequest, method: Method) -> int:
        return sum(map(len, prepared.prompts))

    def compute(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the log-probabilities [num_rows, num_labels] of rows of token ids."""
        return apply(NONE, self.model.logits(rows))

    async def score(
        self, prepared: PreparedRequest, method: Method, client: str
    ) -> tuple[list[ScoredText], np.ndarray]:
        offsets = accumulate(map(len, prepared.prompts), initial=0)
        scored = await all_or_none(
            self._score(ids, offset, client) for ids, offset in zip(prepared.prompts, offsets, strict=False)
        )
        scored = combined_answers(scored, prepared.parts)
        return scored, np.exp(np.array([text.logprobs for text in scored]))

    async def _score(self, ids: Sequence[int], after_tokens: int, client: str) -> ScoredText:
        logprobs, queue_s, model_s = await self._students.ask(self, ids, len(ids), after_tokens, client)
        return ScoredText(
            logprobs=tuple(logprobs.tolist()),
            prompt_tokens=len(ids),
            cached_tokens=0,
            completion_tokens=0,
            queue_s=queue_s,
            model_s=model_s,
        )


class TextStudentVersion(_Student):
    """A loaded student that generates texts. Implements `serving.models.version.GeneratorVersion`."""

    def __init__(
        self, students: Students, stored: StoredAdapter, card: TextStudentCard, folder: Path, writer: Generator
    ) -> None:
        super().__init__(students, stored, card, folder)
        self.task, self._writer, self._max_tokens = card.task, writer, card.max_target_tokens

    async def count_tokens(self, inputs: Sequence[str]) -> list[int]:
        try:
            lengths = await asyncio.to_thread(without_panics, self._writer.count_tokens, inputs)
        except InputError as error:
            raise RefusalError(400, "too_long", str(error)) from None
        return [self._max_tokens + length for length in lengths]

    def compute(self, inputs: Sequence[str]) -> list[TextWritten]:
        """Return the text generated for each input."""
        return self._writer.generate(inputs)

    async def generate(self, inputs: Sequence[str], tokens: Sequence[int], client: str) -> list[TimedGeneration]:
        offsets = accumulate(tokens, initial=0)
        requests = (
            self._students.ask(self, text, work, offset, client)
            for text, work, offset in zip(inputs, tokens, offsets, strict=False)
        )
        return [TimedGeneration(*answer) for answer in await all_or_none(requests)]


AnyVersion = StudentVersion | TextStudentVersion

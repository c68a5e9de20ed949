"""Students: loaded into this process, and asked in batches by a thread of their own. No engine and no vllm."""

import asyncio
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from fourshot.engine.calibration import NONE, apply
from fourshot.pipeline.card import AdapterCard
from fourshot.pipeline.student_card import StudentCard, student_left_out
from fourshot.pipeline.tasks.fields import encoder_text
from fourshot.serving.api import Method
from fourshot.serving.app.admission import stage_student
from fourshot.serving.app.dispatcher import BASE, Dispatcher
from fourshot.serving.app.registry import InContext, StoredAdapter
from fourshot.serving.app.scorer import Scored, combined_answers
from fourshot.serving.app.version import Prepared, Version
from fourshot.serving.settings import Limits
from fourshot.training.students.serving_model import ServingModel

if TYPE_CHECKING:
    import numpy as np

WARM_UP_TEXTS = ("N/A", "One text that is longer than the other.")
WINDOW_TOKENS = 8192  # that are let in before it is known how fast students are here
BATCH = 64  # texts that are computed before others come between


def queue_of(limits: Limits, slots: int = 1, window_tokens: int = WINDOW_TOKENS) -> Dispatcher:
    """The queue before a model, as ``limits`` bound it."""
    return Dispatcher(
        slots=slots,
        window_tokens=window_tokens,
        max_wait_s=limits.max_wait_ms / 1000,
        max_queue_s=limits.max_queue_s,
    )


class Students:
    """Loads students, and computes for all of them. A `serving.app.version.Loader`."""

    def __init__(self, staging: Path, dispatcher: Dispatcher) -> None:
        self._staging, self.dispatcher = staging, dispatcher
        self._thread = ThreadPoolExecutor(1, "students")
        self._waiting: dict[StudentVersion, list[_Asked]] = {}  # in the order in which they first came
        self._working: asyncio.Task[None] | None = None

    @property
    def num_inside(self) -> int:
        return 0  # there are no routes but ours

    async def admit(self, stored: StoredAdapter | InContext) -> "StudentVersion":
        assert isinstance(stored, StoredAdapter)
        return await asyncio.get_running_loop().run_in_executor(None, self._open, stored)

    def _open(self, stored: StoredAdapter) -> "StudentVersion":
        card = stored.card
        assert isinstance(card, StudentCard)
        folder, used = stage_student(stored.folder, card, self._staging)
        try:
            model = ServingModel(folder, used, card.training.max_tokens, len(card.labels))
            model.logits(model.encode(WARM_UP_TEXTS))  # it works, and its kernels are there
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return StudentVersion(self, stored, card, model, folder, used)

    def announce(self, version: Version) -> None:
        """There is no list of models to be in."""

    def withdraw(self, version: Version) -> None:
        """There is no list of models to be in."""

    def is_busy(self, version: Version) -> bool:
        return False

    async def unload(self, version: Version) -> None:
        if version.folder is not None:
            await asyncio.to_thread(shutil.rmtree, version.folder, ignore_errors=True)

    async def pin(self, versions: Sequence[Version]) -> None:
        """All are in memory."""

    async def score(self, version: "StudentVersion", ids: Sequence[int], after_tokens: int, asker: str) -> Scored:
        """One text of a request, ``after_tokens`` of which come first. Cancelling it takes it out of the queue."""
        arrived = time.monotonic()
        await self.dispatcher.turn(BASE, len(ids), after_tokens, asker)
        try:
            asked = _Asked(ids)
            self._waiting.setdefault(version, []).append(asked)
            if self._working is None or self._working.done():
                self._working = asyncio.create_task(self._work())
            logprobs, began, ended = await asked.answer
        finally:
            self.dispatcher.done(len(ids))
        return Scored(
            logprobs=tuple(logprobs.tolist()),
            prompt_tokens=len(ids),
            cached_tokens=0,
            completion_tokens=0,
            queue_s=began - arrived,
            model_s=ended - began,
        )

    async def _work(self) -> None:
        """Compute what waits, a batch of one student at a time."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            version = next(iter(self._waiting))
            waiting = self._waiting.pop(version)
            batch, rest = waiting[:BATCH], waiting[BATCH:]
            if rest:
                self._waiting[version] = rest  # behind the other students
            batch = [asked for asked in batch if not asked.answer.done()]
            if not batch:
                continue
            began = time.monotonic()
            try:
                logits = await loop.run_in_executor(self._thread, version.model.logits, [asked.ids for asked in batch])
            except Exception as error:  # theirs to be told; others are answered
                for asked in batch:
                    if not asked.answer.done():
                        asked.answer.set_exception(error)
                continue
            ended = time.monotonic()
            for asked, row in zip(batch, apply(NONE, logits), strict=True):
                if not asked.answer.done():
                    asked.answer.set_result((row, began, ended))


class _Asked:
    __slots__ = ("answer", "ids")

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = ids
        self.answer: asyncio.Future[tuple[np.ndarray, float, float]] = asyncio.get_running_loop().create_future()


class StudentVersion:
    """A student that is loaded. A `serving.app.version.Version`."""

    def __init__(
        self,
        students: Students,
        stored: StoredAdapter,
        card: StudentCard,
        model: ServingModel,
        folder: Path,
        used: str,
    ) -> None:
        """``used``: the file that answers, "" for the checkpoint itself."""
        self._students, self.model, self.used = students, model, used
        self._most = card.training.max_tokens
        self.stored: StoredAdapter | InContext = stored
        self.card: AdapterCard | StudentCard | None = card
        self.folder: Path | None = folder
        self.name, self.task = card.name, card.task
        self.methods: list[Method] = ["student"]
        self.left_at, self.in_use = 0.0, 0

    @property
    def dispatcher(self) -> Dispatcher:
        return self._students.dispatcher

    async def prepare(self, texts: Sequence[str], method: Method) -> Prepared:
        return await asyncio.to_thread(self._read, texts)

    def _read(self, texts: Sequence[str]) -> Prepared:
        parts = [self.model.parts(encoder_text(self.task, text, self._most)) for text in texts]
        cut = [student_left_out(self.task, text, self._most, self.model.read_chars) for text in texts]
        prompts = self.model.encode([part for own in parts for part in own])
        return Prepared(prompts=prompts, parts=list(map(len, parts)), cut_words=cut)

    def work_tokens(self, prepared: Prepared, method: Method) -> int:
        return sum(map(len, prepared.prompts))

    async def score(self, prepared: Prepared, method: Method, asker: str) -> "tuple[list[Scored], np.ndarray]":
        import numpy as np

        prompts = prepared.prompts
        before = accumulate(map(len, prompts), initial=0)
        scored = await asyncio.gather(
            *(self._students.score(self, ids, after, asker) for ids, after in zip(prompts, before, strict=False))
        )
        scored = combined_answers(scored, prepared.parts)
        return scored, np.exp(np.array([text.logprobs for text in scored]))

"""The driver's loop: hands units out, takes results in, writes shards. All tasks share the workers.

Units go out task by task, for their prompts have a beginning in common that engines keep. The next task is opened as
soon as the ones before leave a worker room, so nobody waits for the last unit of a task.
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from fourshot.engine.errors import FourshotError
from fourshot.engine.models import ResolvedModel
from fourshot.pipeline.corpus.book import Book, Entry
from fourshot.pipeline.corpus.folder import CorpusFolder, ShardRecord
from fourshot.pipeline.corpus.plan import Plan
from fourshot.pipeline.corpus.progress import Progress
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.corpus.sources import texts_kept_out
from fourshot.pipeline.corpus.units import TaskBrief, Unit, UnitResult
from fourshot.pipeline.corpus.workers import Workers

WAIT_S = 0.5


class _Open:
    """A task that is being worked on, and what of it is not on disk yet."""

    def __init__(self, book: Book, shards: Sequence[ShardRecord]) -> None:
        self.book, self.num_shards, self.is_calibrated = book, len(shards), bool(shards)
        self.entries: list[Entry] = []
        self.rows = 0
        self.since_s = 0.0


class Making:
    """Makes what is missing of a corpus."""

    def __init__(
        self,
        folder: CorpusFolder,
        briefs: Mapping[str, TaskBrief],
        shards: Mapping[str, Sequence[ShardRecord]],
        model: ResolvedModel,
        settings: CorpusSettings,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``briefs``: of the tasks that are not finished. ``shards``: those that are there, by task."""
        self._folder, self._briefs, self._shards, self._model = folder, briefs, shards, model
        self._settings, self._progress, self._clock = settings, progress, clock
        self._unopened = deque(briefs)
        self._open: dict[str, _Open] = {}
        self.plans: dict[str, Plan] = {}  # of every task that was opened
        self.failed: dict[str, FourshotError] = {}

    def run(self, workers: Workers) -> None:
        """Until every task is finished. What was judged is on disk afterwards, unless the disk refused it.

        Ctrl-C is heard between two results, so that no shard is cut short; a second one ends everything at once.
        """
        with _interrupts() as was_interrupted:
            try:
                while self._hand_out(workers):
                    for result in workers.wait(WAIT_S):
                        self._take(result)
                        self._write_due()
                    self._write_due()
                    if was_interrupted():
                        raise KeyboardInterrupt
            except (FourshotError, KeyboardInterrupt):  # not OSError: what could not be written must not be tried again
                for name in self._open:
                    self._write(name)
                raise

    def _hand_out(self, workers: Workers) -> bool:
        """Give workers what they have room for. False where nothing is left to do."""
        while workers.has_room():
            unit = self._next_unit()
            if unit is None:
                break
            workers.give(unit, self._briefs[unit.task])
        return bool(self._open or self._unopened)

    def _next_unit(self) -> Unit | None:
        for task in self._open.values():
            if unit := task.book.next_unit():
                return unit
        while self._unopened:
            name = self._unopened.popleft()
            try:
                book = self._open_book(name)
            except FourshotError as error:
                self.failed[name] = error
                continue
            if unit := book.next_unit():
                return unit
        return None

    def _open_book(self, name: str) -> Book:
        shards = self._shards.get(name, ())
        book = Book(
            self._briefs[name],
            self._model,
            test_texts=texts_kept_out(self._briefs[name].task),
            records=[record for shard in shards for record in shard.units],
            kept_texts=self._folder.texts(shards),
            calibration=self._folder.calibration(name) if shards else None,
        )
        self._open[name] = _Open(book, shards)
        self.plans[name] = book.plan
        return book

    def _take(self, result: UnitResult) -> None:
        name = result.unit.task
        task = self._open[name]
        if result.attributes:
            self._folder.keep_attributes(name, result.attributes)
        entries = task.book.take(result)
        if entries and not task.entries:
            task.since_s = self._clock()
        task.entries += entries
        rows = sum(len(entry.rows) for entry in entries)
        task.rows += rows
        self._progress.count(result, rows)
        is_done = task.book.is_done
        if is_done:  # what classes lack that have stalled
            classes = task.book.plan.classes.values()
            self._progress.give_up(sum(task.book.plan.wanted - count.kept for count in classes))
        self._progress.tell(task.book.plan, name, now=is_done)
        if is_done:
            self._write(name)
            del self._open[name]

    def _write_due(self) -> None:
        now = self._clock()
        for name, task in self._open.items():
            is_old = task.entries and now - task.since_s >= self._settings.shard_s
            if is_old or task.rows >= self._settings.rows_per_shard:
                self._write(name)

    def _write(self, name: str) -> None:
        task = self._open[name]
        if not task.entries:
            return
        if not task.is_calibrated and task.book.calibration is not None:
            self._folder.keep_calibration(name, task.book.calibration)
            task.is_calibrated = True
        self._folder.add_shard(name, task.num_shards, task.entries, self._settings.format)
        task.entries, task.rows = [], 0
        task.num_shards += 1


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether Ctrl-C was pressed; a second time it raises KeyboardInterrupt."""
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield lambda: False
        return

    def press(number: int, _: FrameType | None) -> None:
        pressed.append(number)
        if len(pressed) > 1:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)

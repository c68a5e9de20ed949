"""The loop: gives units to workers, collects results, and has judged batches written. Runs and corpora use it.

Units are issued task by task, because their prompts share a beginning that engines cache. The next task is opened as
soon as the open ones leave workers with too little to do, so no worker waits for the last unit of a task.
"""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from fourshot.engine.errors import FourshotError
from fourshot.pipeline.loop.ledger import JudgedBatch, Ledger
from fourshot.pipeline.loop.units import Unit, UnitProgress, UnitResult
from fourshot.pipeline.loop.workers import Workers

WAIT_S = 0.5


class Sink(Protocol):
    """Destination of the texts of one task: a run folder, or a part of a corpus."""

    def open(self) -> Ledger:
        """Return the task's ledger, with everything on disk restored. Raises FourshotError if that is not possible."""
        ...

    def report(self, ledger: Ledger, message: UnitResult | UnitProgress) -> None:
        """Report the task's progress after a message of a worker; called before the ledger takes the message."""
        ...

    def add(self, ledger: Ledger, judged: Sequence[JudgedBatch]) -> None:
        """Accept judged batches, and write them now or later."""
        ...

    def write(self, *, only_due: bool = False) -> None:
        """Write everything that was judged; ``only_due``: only if it has waited long enough."""
        ...

    def finish(self, ledger: Ledger) -> None:
        """Complete the task. Raises ShortRunError if too few texts were kept."""
        ...


class Driver:
    """Fills the sinks of many tasks, which share the workers."""

    def __init__(self, sinks: Mapping[str, Sink], *, one_at_a_time: bool = False, keep_going: bool = False) -> None:
        """``sinks``: by key of their briefs. ``one_at_a_time``: a task is opened only when the previous one is done.

        ``keep_going``: a task that fails does not stop the others; `failed` has its error.
        """
        self._sinks, self._one_at_a_time, self._keep_going = sinks, one_at_a_time, keep_going
        self._unopened = deque(sinks)
        self._open: dict[str, Ledger] = {}
        self.failed: dict[str, FourshotError] = {}

    def run(self, workers: Workers) -> None:
        """Process every task to the end. Afterwards, all judged batches are on disk, unless writing failed.

        Ctrl-C takes effect between two results, so that no write is interrupted; a second one takes effect at once.
        """
        with _interrupts() as was_interrupted:
            try:
                while self._hand_out(workers):
                    for message in workers.wait(WAIT_S):
                        self._take(message)
                        self._write_due()
                    self._write_due()
                    if was_interrupted():
                        raise KeyboardInterrupt
            except (FourshotError, KeyboardInterrupt):  # not OSError: a failed write must not be repeated
                for key in self._open:
                    self._sinks[key].write()
                raise

    def _hand_out(self, workers: Workers) -> bool:
        """Give workers the units that they have room for. Return False if nothing is left to do."""
        while workers.has_room():
            unit = self._next_unit()
            if unit is None:
                break
            workers.give(unit, self._open[unit.brief].brief)
        return bool(self._open or self._unopened)

    def _next_unit(self) -> Unit | None:
        for ledger in self._open.values():
            if unit := ledger.next_unit():
                return unit
        while self._unopened and not (self._open and self._one_at_a_time):
            key = self._unopened.popleft()
            with self._dropping(key):
                ledger = self._open[key] = self._sinks[key].open()
                self._add(key, ledger.start())
                if unit := ledger.next_unit():
                    return unit
        return None

    def _take(self, message: UnitResult | UnitProgress) -> None:
        key = message.unit[0] if isinstance(message, UnitProgress) else message.unit.brief
        ledger = self._open.get(key)
        if ledger is None:  # its task has failed in the meantime
            return
        with self._dropping(key):
            self._sinks[key].report(ledger, message)
            if isinstance(message, UnitResult):
                self._add(key, ledger.take(message))

    def _add(self, key: str, judged: Sequence[JudgedBatch]) -> None:
        ledger, sink = self._open[key], self._sinks[key]
        if judged:
            sink.add(ledger, judged)
        if ledger.is_done:
            sink.write()
            del self._open[key]
            sink.finish(ledger)

    @contextmanager
    def _dropping(self, key: str) -> Iterator[None]:
        """Close a task that fails and record its error; raise it unless ``keep_going``."""
        try:
            yield
        except FourshotError as error:
            if key in self._open:
                self._sinks[key].write()
                del self._open[key]
            self.failed[key] = error
            if not self._keep_going:
                raise

    def _write_due(self) -> None:
        for key in self._open:
            self._sinks[key].write(only_due=True)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed; pressing it again raises KeyboardInterrupt."""
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

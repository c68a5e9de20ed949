"""One engine in a child process, which is restarted if it dies; only unfinished units are repeated."""

import contextlib
import os
import queue
import threading
from pathlib import Path

from fourshot.engine.core import EngineSettings
from fourshot.engine.machine.gpus import gpus
from fourshot.engine.machine.processes import ChildFailure, ChildProcess
from fourshot.engine.opening import imports_of
from fourshot.pipeline.loop.child import Ready
from fourshot.pipeline.loop.units import TaskBrief, Unit, UnitKey, UnitProgress, UnitResult, all_faulty

BATCHES_AHEAD = 3  # requests given to an engine, in its largest batches: one runs, one waits, one is annotated
GPU_BATCH = 1024  # the largest batch that vLLM chooses by itself
MOST_DEATHS = 3  # consecutive ones: of engines before they were open, or of open ones, at last with a single unit
_Message = Ready | UnitResult | UnitProgress | ChildFailure | None  # None: the child has ended


def requests_ahead(engine: EngineSettings, *, on_gpu: bool) -> int:
    """Return how many requests an engine is given at a time."""
    at_once = engine.gpu_max_num_seqs or GPU_BATCH if on_gpu else engine.max_num_seqs
    return BATCHES_AHEAD * at_once


class LocalWorker:
    """The only worker of this machine: one engine in a child process."""

    def __init__(self, engine: EngineSettings, log: Path) -> None:
        """``log``: file for the output of libraries."""
        self._engine, self._log = engine, log
        self._most_requests = requests_ahead(engine, on_gpu=bool(gpus(os.environ)))
        self._messages: queue.SimpleQueue[tuple[int, _Message]] = queue.SimpleQueue()  # with the number of the start
        self._in_flight: dict[UnitKey, Unit] = {}  # sent to the child, without a result yet
        self._waiting: list[Unit] = []  # to be sent one by one, each to a child that has nothing else to do
        self._briefs: dict[str, TaskBrief] = {}
        self._is_open = False  # the engine of the current child
        self._dead_starts = 0  # consecutive deaths before the engine was open
        self._deaths = 0  # of open engines, since the last result
        self._given_up = 0  # units, since the last result
        self.starts = 0
        self._start()

    def has_room(self) -> bool:
        """Return whether to give another unit: not until the engine is open, as clients measure from the first unit."""
        requests = sum(unit.size for unit in self._in_flight.values())
        return self._is_open and not self._waiting and requests < self._most_requests

    def give(self, unit: Unit, brief: TaskBrief) -> None:
        """Send a unit to the child, before it the brief if the child does not have it."""
        self._briefs[unit.brief] = brief
        self._in_flight[unit.key] = unit
        if unit.brief not in self._introduced:
            self._introduced.add(unit.brief)
            self._child.send(brief)
        self._child.send(unit)

    def wait(self, timeout_s: float) -> list[UnitResult | UnitProgress]:
        """Return messages since the last call; none after ``timeout_s``.

        Raises what opening the engine raised, and FourshotError if it keeps dying.
        """
        messages: list[UnitResult | UnitProgress] = []
        with contextlib.suppress(queue.Empty):
            messages += self._take(*self._messages.get(timeout=timeout_s))
            while True:
                messages += self._take(*self._messages.get_nowait())
        return messages

    def close(self) -> None:
        """End the child; unfinished work is lost."""
        self._child.end()

    def _take(self, start: int, message: _Message) -> list[UnitResult | UnitProgress]:
        if start != self.starts:
            return []
        if isinstance(message, ChildFailure):
            raise message.error()
        if isinstance(message, UnitProgress):
            return [message]
        if isinstance(message, Ready):
            self._is_open, self._dead_starts = True, 0
            return []
        if message is None:
            return list(self._replace())
        if self._in_flight.pop(message.unit.key, None) is None:
            return []
        self._deaths = self._given_up = 0
        self._give_waiting()
        return [message]

    def _replace(self) -> list[UnitResult]:
        """Start another child with the units of the dead one: all at once, or after a second death one by one.

        Return the faulty result of a unit with which the engine died `MOST_DEATHS` times, if there is one. Raises
        FourshotError after as many deaths before the engine was open, or as many such units.
        """
        self._child.wait()
        self._deaths += self._is_open
        self._dead_starts += not self._is_open
        given_up: list[UnitResult] = []
        if self._deaths >= MOST_DEATHS and len(self._in_flight) == 1:
            (unit,) = self._in_flight.values()
            self._in_flight.clear()
            message = f"the engine died {MOST_DEATHS} times in a row, at last with nothing else to do; see {self._log}"
            given_up.append(all_faulty(unit, self._briefs[unit.brief].task.name, "engine", message))
            self._given_up += 1
            self._deaths = 0
        if self._dead_starts >= MOST_DEATHS or self._given_up >= MOST_DEATHS:
            raise self._child.error(
                f"The engine's process died {self.starts} times, most recently without any result; it"
            )
        again = [*self._in_flight.values(), *self._waiting]
        self._in_flight, self._waiting = {}, []
        self._start()
        if self._deaths > 1:
            self._waiting = again
            self._give_waiting()
        else:
            for unit in again:
                self.give(unit, self._briefs[unit.brief])
        return given_up

    def _give_waiting(self) -> None:
        if self._waiting and not self._in_flight:
            unit = self._waiting.pop(0)
            self.give(unit, self._briefs[unit.brief])

    def _start(self) -> None:
        self.starts += 1
        self._introduced: set[str] = set()  # keys of the briefs that this child has
        self._is_open = False
        self._child = ChildProcess("fourshot.pipeline.loop.child", self._log, imports=imports_of(self._engine))
        self._child.send(self._engine)
        threading.Thread(target=self._listen, args=(self.starts, self._child), daemon=True).start()

    def _listen(self, start: int, child: ChildProcess) -> None:
        for message in child.messages(Ready | UnitResult | UnitProgress):
            self._messages.put((start, message))
        self._messages.put((start, child.failure))

"""One engine in a child process, which is started again when it dies; only what it had not finished is done again."""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import msgspec

from fourshot.engine.errors import FourshotError
from fourshot.engine.threads import ENGINE_SPINS
from fourshot.pipeline.corpus.child import Ready
from fourshot.pipeline.corpus.units import Opening, TaskBrief, Unit, UnitResult, all_faulty
from fourshot.pipeline.synthesis.worker import Failure, end, environment, error_of, log_tail

BATCHES_AHEAD = 3  # draws that an engine is given, in its largest batches: one runs, one waits, one is read
MOST_DEATHS = 3  # in a row: of an engine before it was open, and of one that had a single unit


class LocalWorker:
    """The one worker of this machine."""

    def __init__(self, opening: Opening, log: Path) -> None:
        """``log``: where what libraries print goes."""
        self._opening, self._log = opening, log
        self._said: queue.SimpleQueue[tuple[int, Ready | UnitResult | Failure | None]] = queue.SimpleQueue()
        self._given: dict[tuple[str, int], Unit] = {}  # to the child, and not yet come back
        self._held: list[Unit] = []  # given to us, for a child that has nothing else to do
        self._briefs: dict[str, TaskBrief] = {}
        self._is_open = False  # the engine of this child
        self._dead_starts = 0  # in a row, before the engine was open
        self._deaths = 0  # of open engines, since a unit came back
        self._given_up = 0  # units, since one came back
        self.starts = 0
        self._start()

    @property
    def process_id(self) -> int:
        return self._child.pid

    def has_room(self) -> bool:
        draws = sum(unit.draws for unit in self._given.values())
        return not self._held and draws < BATCHES_AHEAD * self._opening.engine.max_num_seqs

    def give(self, unit: Unit, brief: TaskBrief) -> None:
        """Have a unit done."""
        self._briefs[unit.task] = brief
        self._given[unit.task, unit.number] = unit
        if unit.task not in self._told:
            self._told.add(unit.task)
            self._tell(brief)
        self._tell(unit)

    def wait(self, timeout_s: float) -> list[UnitResult]:
        """Results since the last time. Raises what opening the engine raised, and FourshotError if it keeps dying."""
        results: list[UnitResult] = []
        with contextlib.suppress(queue.Empty):
            results += self._hear(*self._said.get(timeout=timeout_s))
            while True:
                results += self._hear(*self._said.get_nowait())
        return results

    def close(self) -> None:
        """End the child; what it was doing is lost."""
        end(self._child)

    def _hear(self, start: int, said: Ready | UnitResult | Failure | None) -> list[UnitResult]:
        if start != self.starts:
            return []
        if isinstance(said, Failure):
            raise error_of(said)
        if isinstance(said, Ready):
            self._is_open, self._dead_starts = True, 0
            return []
        if said is None:
            return self._replace()
        if self._given.pop((said.unit.task, said.unit.number), None) is None:
            return []
        self._deaths = self._given_up = 0
        self._give_held()
        return [said]

    def _replace(self) -> list[UnitResult]:
        """Start another child and give it what the dead one had: all, and after a second death one after another."""
        self._child.wait()
        self._deaths += self._is_open
        self._dead_starts += not self._is_open
        given_up: list[UnitResult] = []
        if self._deaths >= MOST_DEATHS and len(self._given) == 1:
            (unit,) = self._given.values()
            self._given.clear()
            message = f"the engine died {MOST_DEATHS} times in a row, at last with nothing else to do; see log.txt"
            given_up.append(all_faulty(unit, "engine", message))
            self._given_up += 1
            self._deaths = 0
        if self._dead_starts >= MOST_DEATHS or self._given_up >= MOST_DEATHS:
            raise FourshotError(
                f"The engine's process has died {self.starts} times, and lately did nothing in between. Finished "
                f"shards are kept; run the same command again to go on. The end of its log ({self._log}):\n"
                f"{log_tail(self._log)}"
            )
        again = [*self._given.values(), *self._held]
        self._given, self._held = {}, []
        self._start()
        if self._deaths > 1:
            self._held = again
            self._give_held()
        else:
            for unit in again:
                self.give(unit, self._briefs[unit.task])
        return given_up

    def _give_held(self) -> None:
        if self._held and not self._given:
            unit = self._held.pop(0)
            self.give(unit, self._briefs[unit.task])

    def _start(self) -> None:
        self.starts += 1
        self._told: set[str] = set()  # tasks that this child knows
        self._is_open = False
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "fourshot.pipeline.corpus.child", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(ENGINE_SPINS),
            )
        assert self._child.stdout
        self._tell(self._opening)
        threading.Thread(target=self._listen, args=(self.starts, self._child.stdout), daemon=True).start()

    def _listen(self, start: int, stream: IO[bytes]) -> None:
        decode = msgspec.json.Decoder(Ready | UnitResult | Failure).decode
        with contextlib.suppress(msgspec.DecodeError):  # of a last line that its death cut short
            for line in stream:
                self._said.put((start, decode(line)))
        self._said.put((start, None))

    def _tell(self, value: Opening | TaskBrief | Unit) -> None:
        assert self._child.stdin
        with contextlib.suppress(BrokenPipeError):  # it is dead, which will be heard
            self._child.stdin.write(msgspec.json.encode(value) + b"\n")
            self._child.stdin.flush()

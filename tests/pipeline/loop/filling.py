"""Fills run folders with an engine in this process, for tests."""

from collections.abc import Sequence
from typing import Any

from fourshot.engine.core import Engine
from fourshot.pipeline.loop.driver import Driver
from fourshot.pipeline.loop.rounds import RoundSink, finished_pairs
from fourshot.pipeline.loop.unit_runner import UnitRunner
from fourshot.pipeline.loop.units import TaskBrief, Unit, UnitProgress, UnitResult
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import WorkFolder


class InProcessWorker:
    """A worker with an open engine in this process, which stays open. A unit is processed in `wait`."""

    starts = 1

    def __init__(self, engine: Engine) -> None:
        self._came: list[UnitResult | UnitProgress] = []
        self._runner = UnitRunner(engine, self._came.append)
        self._known: set[str] = set()

    def has_room(self) -> bool:
        return not self._runner.is_busy

    def give(self, unit: Unit, brief: TaskBrief) -> None:
        if unit.brief not in self._known:
            self._known.add(unit.brief)
            self._runner.introduce(brief)
        if refused := self._runner.begin(unit):
            self._came.append(refused)

    def wait(self, timeout_s: float) -> list[UnitResult | UnitProgress]:
        if self._runner.is_busy:
            self._came.append(self._runner.finish())
        came = self._came[:]
        self._came.clear()
        return came

    def close(self) -> None:
        pass


def fill_rounds(
    folder: WorkFolder, engine: Engine, task: Task, shots: Sequence[Example], settings: RunSettings, **more: Any
) -> list[tuple[Candidate, Verdict]]:
    """Fill ``folder`` as a run does, with an open engine. Return the kept pairs. ``more``: arguments of `RoundSink`."""
    sink = RoundSink(folder, task, shots, settings, **more)
    Driver({sink.key: sink}, one_at_a_time=True).run(InProcessWorker(engine))
    return [(candidate, verdict) for candidate, verdict in finished_pairs(folder) if verdict.kept]

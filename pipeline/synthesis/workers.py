"""Those who do units, as the driver sees them: engines in this process, in a child process, or on a Ray cluster."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from fourshot.engine.adapters import rank_of, slot_rank
from fourshot.engine.core import Engine, EngineSettings
from fourshot.pipeline.synthesis.annotate import Reader
from fourshot.pipeline.synthesis.units import TaskBrief, Unit, UnitProgress, UnitResult


class Workers(Protocol):
    """One or many engines somewhere. Every unit that is given comes back once, as a result."""

    starts: int  # of engines, so far

    def has_room(self) -> bool:
        """Whether another unit should be given now: enough for nobody to wait, and not much more."""
        ...

    def give(self, unit: Unit, brief: TaskBrief) -> None: ...

    def wait(self, timeout_s: float) -> list[UnitResult | UnitProgress]:
        """What has come back since the last time; empty after ``timeout_s``. Raises FourshotError where nobody can."""
        ...

    def close(self) -> None:
        """End them; what they were doing is lost."""
        ...


class InProcessWorker:
    """An engine that is open in this process, and stays open. Each unit is done when it is waited for."""

    starts = 1

    def __init__(self, engine: Engine) -> None:
        from fourshot.pipeline.synthesis.unit_runner import UnitRunner

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


def engine_settings(
    model: str, readers: Iterable[Reader], most_loras: int, *, compiled: bool = False
) -> EngineSettings:
    """Of an engine that draws, and has texts read by ``readers``, at most ``most_loras`` adapters in a batch."""
    adapters = {reader.adapter.name: reader.adapter for reader in readers}
    return EngineSettings(
        model=model,
        max_loras=min(len(adapters), most_loras),
        max_lora_rank=slot_rank(max(map(rank_of, adapters.values()), default=8)),
        compile=compiled,
    )


def open_workers(engine: EngineSettings, ray: str, log: Path) -> Workers:
    """Engines on a Ray cluster where ``ray`` names one, else a single one in a child process that prints into ``log``.

    Raises InputError where there is no such cluster.
    """
    if ray:
        from fourshot.pipeline.synthesis.ray_workers import RayWorkers

        return RayWorkers(engine, ray)
    from fourshot.pipeline.synthesis.local_worker import LocalWorker

    return LocalWorker(engine, log)

"""Those who do units, as the driver sees them: an engine in a child process, or many on a Ray cluster."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from fourshot.engine.adapters import rank_of, slot_rank
from fourshot.engine.core import Adapter, EngineSettings
from fourshot.pipeline.loop.units import TaskBrief, Unit, UnitProgress, UnitResult
from fourshot.pipeline.synthesis.committee import Reader


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


def engine_settings(
    model: str, adapters: Iterable[Adapter | None], most_loras: int, *, compiled: bool = False, gpus: int = 1
) -> EngineSettings:
    """Of an engine on ``gpus`` GPUs in which ``adapters`` answer, at most ``most_loras`` of them in a batch."""
    named = {adapter.name: adapter for adapter in adapters if adapter}
    return EngineSettings(
        model=model,
        max_loras=min(len(named), most_loras),
        max_lora_rank=slot_rank(max(map(rank_of, named.values()), default=8)),
        compile=compiled,
        gpus=gpus,
    )


def open_workers(
    engine: EngineSettings,
    ray: str,
    log: Path,
    readers: Iterable[Reader] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> Workers:
    """Engines on a Ray cluster where ``ray`` names one, else a single one in a child process that prints into ``log``.

    ``readers``: whose files every machine of a cluster must see. ``tell`` hears of machines that are done without.
    Raises InputError where there is no such cluster.
    """
    if ray:
        from fourshot.pipeline.loop.ray_workers import RayWorkers

        files = [weights.path for reader in readers for weights in (*reader.adapters, reader.encoder) if weights]
        return RayWorkers(engine, ray, files, tell)
    from fourshot.pipeline.loop.local_worker import LocalWorker

    return LocalWorker(engine, log)

"""Interface of workers, which process units for the driver: an engine in a child process, or many on a Ray cluster."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from fourshot.engine.adapters import rank_of, slot_rank
from fourshot.engine.core import Adapter, EngineSettings
from fourshot.pipeline.loop.units import TaskBrief, Unit, UnitProgress, UnitResult
from fourshot.pipeline.synthesis.committee import Annotator


class Workers(Protocol):
    """One or many engines. Every unit given to them comes back once, as a result."""

    starts: int  # of engines, so far

    def has_room(self) -> bool:
        """Return whether to give another unit now: enough that no engine is idle, and not much more."""
        ...

    def give(self, unit: Unit, brief: TaskBrief) -> None: ...

    def wait(self, timeout_s: float) -> list[UnitResult | UnitProgress]:
        """Return messages since the last call; none after ``timeout_s``. Raises FourshotError if no engine can work."""
        ...

    def close(self) -> None:
        """End the engines; unfinished work is lost."""
        ...


def engine_settings(
    model: str, adapters: Iterable[Adapter | None], most_loras: int, *, compiled: bool = False, gpus: int = 1
) -> EngineSettings:
    """Return settings of an engine on ``gpus`` GPUs that loads ``adapters``, at most ``most_loras`` in one batch."""
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
    annotators: Iterable[Annotator] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> Workers:
    """Return engines on the Ray cluster ``ray``; if it is "", a single one in a child process that prints into ``log``.

    ``annotators``: annotators whose files every machine of a cluster must see. ``tell`` is called with a message about
    each machine that is excluded. Raises InputError if there is no such cluster.
    """
    if ray:
        from fourshot.pipeline.loop.ray_workers import RayWorkers

        files = [
            weights.path for annotator in annotators for weights in (*annotator.adapters, annotator.encoder) if weights
        ]
        return RayWorkers(engine, ray, files, tell)
    from fourshot.pipeline.loop.local_worker import LocalWorker

    return LocalWorker(engine, log)

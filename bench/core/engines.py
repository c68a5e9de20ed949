"""Engines, each in a process of its own, that measure one cell when they are asked to and rest otherwise.

So all engines of a suite can be there at once and the order of its cells be shuffled over them: what the machine does
to one, it does to all.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.closed_loop import CellMeasurement, CellRequests, run_cell
from fourshot.bench.core.processes import OpenerProcess
from fourshot.bench.core.results import tell
from fourshot.engine.core import EngineSettings

Engines = Mapping[str, OpenerProcess[CellRequests, CellMeasurement]]


class SuiteBase(msgspec.Struct, frozen=True, kw_only=True):
    """What all engines of a suite are opened on."""

    path: str
    load_format: str = "auto"
    adapters: tuple[str, ...] = ()  # folders of random adapters
    merged: str = ""  # the first of them merged into the base; "": it would have the base's shape and no other weights

    def settings(self, *, kv_cache_mib: int, gpu_kv_cache_mib: int, **options: Any) -> EngineSettings:
        """Of an engine without adapters; ``options`` are fields of `EngineSettings`."""
        return EngineSettings(
            model=self.path,
            load_format=self.load_format,
            kv_cache_bytes=kv_cache_mib << 20,
            gpu_kv_cache_bytes=gpu_kv_cache_mib << 20,
            **options,
        )


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Which engine."""

    settings: EngineSettings
    adapters: tuple[str, ...] = ()  # folders
    sleep_s: float = 0.0  # before every step of the model: a slowdown that is planted, to see whether it is found


def open_for_cells(spec: EngineSpec) -> Callable[[CellRequests], CellMeasurement]:
    """An engine that measures cells."""
    from fourshot.engine.core import Adapter
    from fourshot.engine.opening import open_engine

    engine: Any = open_engine(spec.settings)
    adapters = [Adapter(name=Path(folder).name, path=folder) for folder in spec.adapters]
    if spec.sleep_s:
        advance = engine.advance

        def slowly() -> None:
            time.sleep(spec.sleep_s)
            advance()

        engine.advance = slowly
    return lambda cell: run_cell(engine, adapters, cell)


@contextmanager
def engines(specs: Mapping[str, EngineSpec], log: Path) -> Iterator[Engines]:
    """All of them started, one after the other; all ended."""
    with ExitStack() as stack:
        running = {}
        for name, spec in specs.items():
            running[name] = stack.enter_context(closing(OpenerProcess(open_for_cells, spec, log)))
            tell(f"engine {name}: ready in {running[name].start_s:.0f} s")
        yield running

"""Engines, each in a process of its own, that measure one cell when they are told to and rest otherwise.

So all engines of a suite can be there at once and the order of its cells be shuffled over them: what the machine does
to one, it does to all.

    python -m fourshot.bench.core.engine_process      reads an `EngineOrder`, then `CellOrder`s, one a line
"""

import time
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.driver import CellOrder, CellResult, run_cell
from fourshot.bench.core.old_processes import MeasuringProcess, lines_in_and_out
from fourshot.engine.core import EngineSettings


class EngineOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Which engine."""

    settings: EngineSettings
    adapters: tuple[str, ...] = ()  # folders
    sleep_s: float = 0.0  # before every step of the model: a slowdown that is planted, to see whether it is found


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """It is ready."""

    start_s: float


class EngineProcess(MeasuringProcess):
    """The parent's end."""

    def __init__(self, order: EngineOrder, log: Path) -> None:
        """Starts it and waits. Raises RuntimeError, with the end of its log, where it does not start."""
        super().__init__("fourshot.bench.core.engine_process", order, log)
        self.started = self.answer(Started)

    def run(self, order: CellOrder) -> CellResult:
        """Measure a cell. Raises RuntimeError where the process ended."""
        return self.ask(order, CellResult)


def _plant(engine: Any, sleep_s: float) -> None:
    advance = engine.advance

    def slowly() -> None:
        time.sleep(sleep_s)
        advance()

    engine.advance = slowly


def main() -> None:
    from fourshot.engine.core import Adapter
    from fourshot.engine.opening import open_engine

    with lines_in_and_out() as (lines, answer):
        order = msgspec.json.decode(next(lines), type=EngineOrder)
        started = time.perf_counter()
        engine: Any = open_engine(order.settings)
        adapters = [Adapter(name=Path(one).name, path=one) for one in order.adapters]
        if order.sleep_s:
            _plant(engine, order.sleep_s)
        answer(Started(start_s=time.perf_counter() - started))
        for line in lines:
            answer(run_cell(engine, adapters, msgspec.json.decode(line, type=CellOrder)))
        engine.close()


if __name__ == "__main__":
    main()

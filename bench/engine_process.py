"""Engines, each in a process of its own, that measure one cell when they are told to and rest otherwise.

So all engines of a suite can be there at once and the order of its cells be shuffled over them: what the machine does
to one, it does to all.

    python -m bench.engine_process      reads an `EngineOrder`, then `CellOrder`s, one JSON document per line
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import msgspec

from bench.driver import CellOrder, CellResult, run_cell
from engine.core import EngineSettings

STOP_S = 60


class EngineOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Which engine."""

    settings: EngineSettings
    adapters: tuple[str, ...] = ()  # folders
    sleep_s: float = 0.0  # before every step of the model: a slowdown that is planted, to see whether it is found


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """It is ready."""

    start_s: float


class EngineProcess:
    """The parent's end."""

    def __init__(self, order: EngineOrder, log: Path) -> None:
        """Starts it and waits. Raises RuntimeError, with the end of its log, where it does not start."""
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.engine_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._path = log
        self._send(order)
        self.started = msgspec.json.decode(self._line(), type=Started)

    def run(self, order: CellOrder) -> CellResult:
        """Measure a cell. Raises RuntimeError where the process ended."""
        self._send(order)
        return msgspec.json.decode(self._line(), type=CellResult)

    def close(self) -> None:
        """End it. Idempotent."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:
                continue
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _send(self, order: Any) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(msgspec.json.encode(order) + b"\n")
            pipe.flush()
        except BrokenPipeError:
            raise RuntimeError(self._said()) from None

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self._said())
        return line

    def _said(self) -> str:
        code = self._process.wait()
        said = self._path.read_text(errors="replace")[-3000:]
        return f"an engine of the benchmark ended with code {code}; the end of {self._path}:\n{said}"


def _serve(lines: IO[bytes], out: IO[bytes]) -> None:
    from engine.core import Adapter
    from engine.opening import open_engine

    order = msgspec.json.decode(next(lines), type=EngineOrder)
    started = time.perf_counter()
    engine: Any = open_engine(order.settings)
    adapters = [Adapter(name=Path(one).name, path=one) for one in order.adapters]
    if order.sleep_s:
        _plant(engine, order.sleep_s)

    def answer(value: Any) -> None:
        out.write(msgspec.json.encode(value) + b"\n")
        out.flush()

    answer(Started(start_s=time.perf_counter() - started))
    for line in lines:
        answer(run_cell(engine, adapters, msgspec.json.decode(line, type=CellOrder)))
    engine.close()


def _plant(engine: Any, sleep_s: float) -> None:
    advance = engine.advance

    def slowly() -> None:
        time.sleep(sleep_s)
        advance()

    engine.advance = slowly


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print does not come between our lines
    _serve(sys.stdin.buffer, out)


if __name__ == "__main__":
    main()

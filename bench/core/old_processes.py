"""A process that measures: told first what to be, then again and again what to do, one JSON document per line.

So several can be there at once, each with its engine, and only one at work: what the machine does to one, it does to
all.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

STOP_S = 60
T = TypeVar("T")


class MeasuringProcess:
    """The parent's end."""

    def __init__(self, module: str, order: Any, log: Path, python: str = sys.executable) -> None:
        """Starts ``python -m module`` and hands it ``order``. What libraries print goes to the end of ``log``."""
        self._log = log.open("ab")
        self._began = self._log.tell()
        self._path = log
        self._process = subprocess.Popen(
            [python, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        self.send(order)

    def ask(self, question: Any, kind: type[T]) -> T:
        """Raises RuntimeError, with the end of what it printed, where the process ended."""
        self.send(question)
        return self.answer(kind)

    def send(self, value: Any) -> None:
        """Raises RuntimeError as `ask` does."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(msgspec.json.encode(value) + b"\n")
            pipe.flush()
        except BrokenPipeError:
            raise RuntimeError(self._said()) from None

    def answer(self, kind: type[T]) -> T:
        """Wait for the next answer. Raises RuntimeError as `ask` does."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self._said())
        return msgspec.json.decode(line, type=kind)

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

    def _said(self) -> str:
        code = self._process.wait()
        said = self._path.read_bytes()[self._began :].decode(errors="replace")[-3000:]
        return f"an engine of the benchmark ended with code {code}; the end of {self._path}:\n{said}"


@contextmanager
def lines_in_and_out() -> Iterator[tuple[IO[bytes], Callable[[Any], None]]]:
    """The child's end: the lines that come, and how to answer. What libraries print does not come between."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        out.write(msgspec.json.encode(value) + b"\n")
        out.flush()

    with out:
        yield sys.stdin.buffer, answer

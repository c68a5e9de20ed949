"""Runs an order in a process of its own, so that the memory of one stage is free for the next.

The order goes in on standard input; events come out on standard output, one JSON value a line. What libraries print
goes to a log file. The child dies with its parent: a run that was killed leaves nobody who still writes to its folder.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import msgspec

from fourshot.engine import errors
from fourshot.engine.errors import FourshotError
from fourshot.engine.processes import die_with_parent
from fourshot.engine.threads import ENGINE_SPINS, TRAIN_SPINS, waiting_briefly
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.orders import Order, TrainOrder, execute, is_done
from fourshot.training.jobs.jobs import FailedJob

LOG_LINES_SHOWN = 15


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    """The last line of a child that failed."""

    kind: str  # class name in fourshot.engine.errors
    message: str


class Told(msgspec.Struct, frozen=True, kw_only=True, tag="event"):
    event: Event


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    failed: tuple[FailedJob, ...] = ()  # of an order that keeps going


def run_in_process(order: Order, log: Path, on_event: OnEvent) -> tuple[FailedJob, ...]:
    """Have a child do ``order``; raises what the child raised. Returns at once where nothing is left to do.

    Gives back what failed of an order that keeps going.
    """
    if is_done(order):
        return ()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as log_file:
        child = subprocess.Popen(
            [sys.executable, "-m", "fourshot.pipeline.synthesis.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=environment(TRAIN_SPINS if isinstance(order, TrainOrder) else ENGINE_SPINS),
        )
        try:
            assert child.stdin and child.stdout
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(msgspec.json.encode(order))
                child.stdin.close()
            outcome = _listen(child.stdout, on_event)
            code = child.wait()
        except BaseException:
            end(child)
            raise
    if isinstance(outcome, Failure):
        raise error_of(outcome)
    if outcome is None:
        raise FourshotError(_died(code, log))
    return outcome.failed


def error_of(failure: Failure) -> FourshotError:
    """The error that a child told of."""
    kind = getattr(errors, failure.kind, FourshotError)
    if kind is errors.TaskFileError:  # it is made from a path and a list, which the message has already
        kind = errors.InputError
    error: FourshotError = kind(failure.message)
    return error


def environment(spins: str) -> dict[str, str]:
    """Of a child that computes; it imports what its parent imports."""
    return waiting_briefly({**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, spins)


def _listen(stream: IO[bytes], on_event: OnEvent) -> Failure | Done | None:
    decoder = msgspec.json.Decoder(Told | Failure | Done)
    outcome: Failure | Done | None = None
    for line in stream:
        said = decoder.decode(line)
        if isinstance(said, Told):
            on_event(said.event)
        else:
            outcome = said
    return outcome


def end(child: "subprocess.Popen[bytes]") -> None:
    """Have a child end, by force if it does not."""
    child.terminate()
    try:
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _died(code: int, log: Path) -> str:
    how = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = " It may have run out of memory." if code == -signal.SIGKILL else ""
    return (
        f"The process of this stage {how}.{hint} Finished work is kept; run the same command again to go on. "
        f"The end of its log ({log}):\n{log_tail(log)}"
    )


def log_tail(log: Path) -> str:
    """The last lines of what a child's libraries printed."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])


def main() -> int:
    """The child: read an order, do it, tell."""
    parent = int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid()
    die_with_parent()
    if os.getppid() != parent:  # it ended before we asked to be told
        return 1
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not come between our lines

    def tell(value: Told | Failure | Done) -> None:
        out.write(msgspec.json.encode(value) + b"\n")

    try:
        failed = execute(order, lambda event: tell(Told(event=event)))
    except FourshotError as error:
        tell(Failure(kind=type(error).__name__, message=str(error)))
        return error.exit_code
    except OSError as error:
        tell(Failure(kind="FourshotError", message=_os_error(error)))
        return 1
    except KeyboardInterrupt:
        return 130
    tell(Done(failed=tuple(failed)))
    return 0


def _os_error(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}. What was finished is on disk; mend this and run the same command again."


if __name__ == "__main__":
    sys.exit(main())

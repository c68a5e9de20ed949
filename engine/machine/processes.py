"""Child processes that run a module and exchange msgspec structs with their parent, one JSON value per line.

`ChildProcess` is the parent's end, `ParentLink` the child's. Output of libraries goes to a log file and cannot mix with
the messages. A child ends with its parent, so no process keeps writing to the folder of a killed run. Each stage that
loads a model is such a process, so its memory is free for the next stage.

    with ChildProcess("fourshot.some.module", log) as child:         def work(parent: ParentLink) -> None:
        child.send(request)                                              request = parent.receive(Request)
        for message in child.messages(Event | Done):                     parent.send(Event(...))
            ...                                                      if __name__ == "__main__":
        child.check("The process of this stage")                         end_process(run_child(work))
"""

import atexit
import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar, cast

import msgspec

from fourshot.engine.errors import FourshotError, from_name
from fourshot.engine.machine.forks import ForkedProcess, fork, prepare
from fourshot.engine.machine.parent import PARENT, die_with_parent
from fourshot.engine.machine.threads import ENGINE_SPINS, limited_cores, waiting_briefly, wanted_cores

TOGETHER = "FOURSHOT_DIE_WITH_PARENT"  # environment variable: vLLM's own child processes end with their parent
LOG_LINES_SHOWN = 15
TERMINATE_S = 5.0  # how long a child may take to exit on SIGTERM

T = TypeVar("T")


class ChildFailure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    """The last message of a child that failed."""

    kind: str  # class name in fourshot.engine.errors
    message: str

    @classmethod
    def of(cls, error: FourshotError | OSError) -> "ChildFailure":
        if isinstance(error, FourshotError):
            return cls(kind=type(error).__name__, message=str(error))
        place = f" ({error.filename})" if error.filename else ""
        remedy = "Finished work is kept. Fix this, then run the same command again."
        return cls(kind="FourshotError", message=f"{error.strerror or error}{place}. {remedy}")

    def error(self) -> FourshotError:
        """Return the child's error, to be raised in the parent."""
        return from_name(self.kind, self.message)


_FAILURE = b'{"type":"failure"'


class ChildProcess:
    """The parent's end. As a context manager, it waits for the child, or terminates it if the block raises."""

    def __init__(
        self,
        module: str,
        log: Path,
        *arguments: str,
        spins: str = ENGINE_SPINS,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
        imports: str = "",
        keeps_log: bool = True,
    ) -> None:
        """Start ``python -P -m module``. With -P, nothing is imported from the working directory by accident.

        ``environment`` defaults to `child_environment` of ``spins``.

        ``imports`` is a module whose import takes most of the child's start time. If possible (`engine.machine.forks`),
        the child is a fork of a process that has imported it.

        ``keeps_log``: whether the log is kept, so that error messages may name it.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._log_place = f" ({log})" if keeps_log else ""
        variables = child_environment(spins) if environment is None else environment
        with log.open("ab") as log_file:
            self._log_begin = log_file.tell()
            copy = fork(imports, module, arguments, variables, log_file.fileno()) if imports else None
            self._process: subprocess.Popen[bytes] | ForkedProcess = copy or subprocess.Popen(
                [python, "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env={**variables, PARENT: str(os.getpid())},
            )
        self.pid = self._process.pid
        self.failure: ChildFailure | None = None  # set by `messages` when the child reports one

    def __enter__(self) -> "ChildProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end() if kind else self.finish()

    def send(self, value: Any) -> None:
        """Send the child one message. Does nothing if the child has ended; `messages` and `receive` report that."""
        if self._stdin.closed:
            return
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(msgspec.json.encode(value) + b"\n")
            self._stdin.flush()

    def messages(self, kind: Any) -> Iterator[Any]:
        """Yield the child's messages, of type ``kind``, until it ends or reports a `ChildFailure`, which is stored."""
        decode = msgspec.json.Decoder(kind).decode
        for line in self._stdout:
            if not line.endswith(b"\n") or not line.startswith(b"{"):
                continue  # truncated when the child was killed, or printed by a launcher in between
            if line.startswith(_FAILURE):
                self.failure = msgspec.json.decode(line, type=ChildFailure)
                return
            yield decode(line)

    def receive(self, kind: type[T]) -> T:
        """Return the next message. Raises the child's error, or FourshotError if it ended without an answer."""
        for message in self.messages(kind):
            return cast(T, message)
        raise self.error("A child process")

    def check(self, subject: str) -> None:
        """Wait for the child to end. Raises the child's error, or FourshotError if its exit code is not 0."""
        if self._process.wait() or self.failure:
            raise self.error(subject)

    def error(self, subject: str) -> FourshotError:
        """Return the error that a child reported, or one that says how it ended; ``subject`` begins the message."""
        if self.failure:
            return self.failure.error()
        code = self._process.wait()
        ending = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = " It may have run out of memory." if code == -signal.SIGKILL else ""
        return FourshotError(
            f"{subject} {ending}.{hint} Finished work is kept; run the same command again to resume. The end of its "
            f"log{self._log_place}:\n{self.log_tail()}"
        )

    def log_tail(self) -> str:
        """Return the last `LOG_LINES_SHOWN` lines of this child's log."""
        printed = self.log.read_bytes()[self._log_begin :].decode(errors="replace")
        return "\n".join(printed.splitlines()[-LOG_LINES_SHOWN:])

    def wait(self) -> int:
        """Wait for the child to end, and return its exit code, negative for a signal."""
        return self._process.wait()

    def finish(self, patience_s: float | None = None) -> None:
        """Close the child's standard input and wait for it; after ``patience_s``, terminate it. Idempotent."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.end()

    def end(self) -> None:
        """Terminate the child, and kill it after `TERMINATE_S`; its unfinished work is lost. Idempotent."""
        self._process.terminate()
        try:
            self._process.wait(TERMINATE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout
        return self._process.stdout


def prepare_child(imports: str, spins: str, log: Path) -> None:
    """Start a server for a later `ChildProcess` with these ``imports`` and ``spins``, which then starts faster."""
    with log.open("ab") as log_file:
        prepare(imports, child_environment(spins), log_file.fileno())


class ParentLink:
    """The child's end."""

    def __init__(self) -> None:
        self._out = take_stdout()

    def send(self, value: Any) -> None:
        """Send the parent a message. May be called from any thread, because a message is a single write."""
        self._out.write(msgspec.json.encode(value) + b"\n")

    def messages(self, kind: Any) -> Iterator[Any]:
        """Yield the parent's messages, of type ``kind``, until it closes the stream."""
        yield from map(msgspec.json.Decoder(kind).decode, sys.stdin.buffer)

    def receive(self, kind: type[T]) -> T:
        """Return the next message. Raises EOFError if the parent has closed the stream."""
        for message in self.messages(kind):
            return cast(T, message)
        raise EOFError("the parent sends no more")


def run_child(
    work: Callable[[ParentLink], None],
    *,
    reported: tuple[type[FourshotError | OSError], ...] = (FourshotError, OSError),
    launched: bool = False,
) -> int:
    """Run ``work`` as the main function of a child, and return the exit code.

    Errors of the types ``reported`` are sent as a `ChildFailure`; others end the process with a traceback in the log.
    ``launched``: whether a launcher, such as torchrun, started this process for the parent.
    """
    parent = os.environ.pop(PARENT, "")
    die_with_parent(int(parent) if parent and not launched else None)
    link = ParentLink()
    try:
        work(link)
    except reported as error:
        link.send(ChildFailure.of(error))
        return error.exit_code if isinstance(error, FourshotError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def end_process(code: int) -> NoReturn:
    """End this process with exit code ``code`` after its exit handlers, without tearing down its objects.

    Python would first delete the objects of torch and vLLM one by one: two seconds of work for memory that the system
    reclaims immediately. vLLM's exit handlers collect garbage twice, which takes two more seconds. So collection is
    disabled. Freezing the objects would not suffice, because the handlers unfreeze them.
    """
    gc.disable()
    gc.collect = lambda generation=2: 0
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # it has no reader any more, or is closed
            stream.flush()
    os._exit(code)


def take_stdout() -> IO[bytes]:
    """Reserve standard output, unbuffered, for messages. From now on, output of libraries goes to standard error."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return out


def child_environment(spins: str = ENGINE_SPINS) -> dict[str, str]:
    """Return the environment of a child that computes: our import path, and ``spins`` of `engine.machine.threads`.

    torch does not know the CPU limit of a container, so the number of threads is set if there is one.
    """
    limit = 0 if wanted_cores() else limited_cores()
    threads = {"OMP_NUM_THREADS": str(limit)} if limit else {}
    return waiting_briefly({**os.environ, **threads, "PYTHONPATH": import_path()}, spins)


def import_path() -> str:
    """Return `sys.path` as PYTHONPATH of a child. The entry "" becomes the working directory of this process."""
    folders = [folder for folder in sys.path if isinstance(folder, str)]  # Python itself ignores others
    if "" in folders:
        with contextlib.suppress(OSError):  # the folder does not exist any more
            folders[folders.index("")] = os.getcwd()
    return os.pathsep.join(filter(None, folders))

"""Child processes: a module run in a process of its own, msgspec structs in and out, one JSON value a line.

`ChildProcess` is the parent's end, `ParentLink` the child's. What libraries print goes to a log file and never comes
between the lines. A child dies with its parent, so that a run that was killed leaves nobody who still writes to its
folder. Each stage that holds a model is such a process: its memory is free for the next one.

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
from fourshot.engine.machine.threads import ENGINE_SPINS, waiting_briefly

TOGETHER = "FOURSHOT_DIE_WITH_PARENT"  # in the environment: vLLM's own child processes end with the one that made them
LOG_LINES_SHOWN = 15
TERMINATE_S = 5.0  # how long a child may take to end when it is asked to

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
        remedy = "What was finished is on disk; mend this and run the same command again."
        return cls(kind="FourshotError", message=f"{error.strerror or error}{place}. {remedy}")

    def error(self) -> FourshotError:
        """The child's error, to be raised here."""
        return from_name(self.kind, self.message)


_FAILURE = b'{"type":"failure"'


class ChildProcess:
    """The parent's end. As a context it ends the child, by force if need be, when the block is left early."""

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
        """Start ``python -P -m module``, which imports nothing from the folder it works in for being there.

        ``environment`` is by default ours as `child_environment` gives it.

        ``imports``: a module whose import takes most of the child's start. Where it can be (`engine.machine.forks`),
        the child is a copy of a process that has imported it.

        ``keeps_log``: the log will be there for whoever reads an error of this.
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
        self.failure: ChildFailure | None = None  # that `messages` met

    def __enter__(self) -> "ChildProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end() if kind else self.finish()

    def send(self, value: Any) -> None:
        """Give the child one message. A child that is dead hears nothing; `messages` and `receive` will tell."""
        if self._stdin.closed:
            return
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(msgspec.json.encode(value) + b"\n")
            self._stdin.flush()

    def messages(self, kind: Any) -> Iterator[Any]:
        """What the child sends, of type ``kind``, until it ends. A `ChildFailure` ends them too, and is kept."""
        decode = msgspec.json.Decoder(kind).decode
        for line in self._stdout:
            if not line.endswith(b"\n") or not line.startswith(b"{"):
                continue  # cut short by its death, or of a launcher between us
            if line.startswith(_FAILURE):
                self.failure = msgspec.json.decode(line, type=ChildFailure)
                return
            yield decode(line)

    def receive(self, kind: type[T]) -> T:
        """The next message. Raises what the child raised, or FourshotError if it ended without an answer."""
        for message in self.messages(kind):
            return cast(T, message)
        raise self.error("A child process")

    def check(self, subject: str) -> None:
        """Wait for the end. Raises what the child raised, or FourshotError if its exit code is not 0."""
        if self._process.wait() or self.failure:
            raise self.error(subject)

    def error(self, subject: str) -> FourshotError:
        """What a child that ended raised, or where there is nothing, how it ended; ``subject`` begins the sentence."""
        if self.failure:
            return self.failure.error()
        code = self._process.wait()
        ending = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = " It may have run out of memory." if code == -signal.SIGKILL else ""
        return FourshotError(
            f"{subject} {ending}.{hint} Finished work is kept; run the same command again to go on. "
            f"The end of its log{self._log_place}:\n{self.log_tail()}"
        )

    def log_tail(self) -> str:
        """The last lines of what this child's libraries printed."""
        printed = self.log.read_bytes()[self._log_begin :].decode(errors="replace")
        return "\n".join(printed.splitlines()[-LOG_LINES_SHOWN:])

    def wait(self) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        return self._process.wait()

    def finish(self, patience_s: float | None = None) -> None:
        """Say that nothing more will be sent and wait; after ``patience_s`` end it. Idempotent."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.end()

    def end(self) -> None:
        """Have the child end now, by force if it does not; what it was doing is lost. Idempotent."""
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
    """Begin with what a `ChildProcess` with these ``imports`` and ``spins`` will need; it starts sooner then."""
    with log.open("ab") as log_file:
        prepare(imports, child_environment(spins), log_file.fileno())


class ParentLink:
    """The child's end."""

    def __init__(self) -> None:
        self._out = take_stdout()

    def send(self, value: Any) -> None:
        """Tell the parent. May be called from any thread: a message is one write."""
        self._out.write(msgspec.json.encode(value) + b"\n")

    def messages(self, kind: Any) -> Iterator[Any]:
        """What the parent sends, of type ``kind``, until it sends no more."""
        yield from map(msgspec.json.Decoder(kind).decode, sys.stdin.buffer)

    def receive(self, kind: type[T]) -> T:
        """The next message. Raises EOFError where the parent sends no more."""
        for message in self.messages(kind):
            return cast(T, message)
        raise EOFError("the parent sends no more")


def run_child(
    work: Callable[[ParentLink], None],
    *,
    reported: tuple[type[FourshotError | OSError], ...] = (FourshotError, OSError),
    launched: bool = False,
) -> int:
    """The child's `main`: do ``work`` for the parent, and return the exit code.

    Errors of the types ``reported`` are sent as a `ChildFailure`; others end the process with a traceback in the log.
    ``launched``: a launcher, torchrun say, stands between the parent and this process.
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
    """End this process with ``code``, after what was registered for its end.

    Python would take torch and vLLM apart object by object first: two seconds of work for memory that the system
    takes back at once. vLLM's own functions for the end collect garbage, twice, another two; so nothing is garbage.
    They thaw what was frozen, so freezing it is not enough.
    """
    gc.disable()
    gc.collect = lambda generation=2: 0
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(code)


def take_stdout() -> IO[bytes]:
    """Standard output, unbuffered, for our messages alone; what libraries print goes to standard error from now on."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return out


def child_environment(spins: str = ENGINE_SPINS) -> dict[str, str]:
    """Of a child that computes; it imports what its parent imports. ``spins``: see `engine.machine.threads`."""
    return waiting_briefly({**os.environ, "PYTHONPATH": import_path()}, spins)


def import_path() -> str:
    """`sys.path` for the environment of a child: an entry for "here" is the folder that this process works in."""
    folders = list(sys.path)
    if "" in folders:
        with contextlib.suppress(OSError):  # the folder is gone
            folders[folders.index("")] = os.getcwd()
    return os.pathsep.join(filter(None, folders))

"""Copies of a process that has imported what they need: `engine.machine.fork_server`, seen by who asks for them.

There is one such server for each environment, in each process that asks. Where there cannot be one, on other systems
than Linux or with a GPU, `fork` says so, and a process is started as usual.
"""

import atexit
import contextlib
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from fourshot.engine.machine.fork_server import BORN, ENDED, ForkRequest
from fourshot.engine.machine.gpus import gpus

MOST_SERVERS = 3  # engines, trainings side by side, one training; each holds some 500 MB, shared with its copies
IDLE_S = 300.0  # after which a server without copies ends: a notebook may have done its run, and stay
SERVER_PATIENCE_S = 2.0  # to end, when this process does


class ForkedProcess:
    """A copy, as far as `subprocess.Popen` is needed of it."""

    def __init__(self, pid: int, descriptor: int, server: socket.socket, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        """``descriptor``: of the process, so that no other with its number is ever meant. ``server``: its end."""
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None
        self._descriptor, self._server, self._lock = descriptor, server, threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired where it runs for longer than ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                if self._has_ended():
                    assert self.returncode is not None
                    return self.returncode
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not _ends_within(self._descriptor, left):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)

    def _has_ended(self) -> bool:
        if self.returncode is None and _ends_within(self._descriptor, 0):
            code = self._server.recv(ENDED.size)
            # Without its server, which was killed, it is killed as well.
            self.returncode = ENDED.unpack(code)[0] if len(code) == ENDED.size else -signal.SIGKILL
            self._server.close()
        return self.returncode is not None

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    @property
    def is_running(self) -> bool:
        with self._lock:
            return not self._has_ended()

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


class _Server:
    """The parent's end of one."""

    def __init__(self, imports: str, environment: Mapping[str, str], log: int) -> None:
        self._copies = weakref.WeakSet[ForkedProcess]()
        self._lock = threading.Lock()  # several threads may ask for copies
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "fourshot.engine.machine.fork_server",
                    str(theirs.fileno()),
                    str(os.getpid()),
                    imports,
                    str(IDLE_S),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(theirs.fileno(),),
            )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_unfit(self) -> bool:
        """Whether it ended because what it has to import cannot be imported, or not be copied."""
        return (self._process.poll() or 0) > 0

    @property
    def is_idle(self) -> bool:
        with self._lock:
            copies = list(self._copies)
        return not any(copy.is_running for copy in copies)

    def fork(self, module: str, arguments: Sequence[str], log: int) -> ForkedProcess | None:
        """None where the server ends before it could."""
        try:
            request = ForkRequest(module=module, arguments=tuple(arguments), folder=str(Path.cwd()))
            content = msgspec.json.encode(request)
        except (OSError, UnicodeEncodeError):  # the folder is gone, or its name is no text
            return None
        of_server, tell = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (input_end, stdin), (stdout, output_end) = os.pipe(), os.pipe()
        streams = os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb")
        try:
            socket.send_fds(self._requests, [content], [input_end, output_end, log, tell.fileno()])
        except OSError:
            pass
        finally:
            tell.close()
            os.close(input_end)
            os.close(output_end)
        try:
            born, descriptors, _, _ = socket.recv_fds(of_server, BORN.size, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            born, descriptors = b"", []
        if not descriptors:
            of_server.close()
            for stream in streams:
                stream.close()
            return None
        copy = ForkedProcess(BORN.unpack(born)[0], descriptors[0], of_server, *streams)
        with self._lock:
            self._copies.add(copy)
        return copy

    def end(self) -> None:
        """With all of its copies, and at once: it may still import, which nobody needs any more."""
        self._requests.close()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(SERVER_PATIENCE_S)


class _Servers:
    """Those of this process."""

    def __init__(self) -> None:
        self._by_state: dict[Any, _Server] = {}
        self._unfit = set[Any]()  # states whose server would end again, after as long an import
        self._owner, self._lock = os.getpid(), threading.Lock()

    def find(self, imports: str, environment: Mapping[str, str], log: int) -> _Server | None:
        """One whose copies are what a process started now would be; None where there cannot be one."""
        state = (imports, *sorted(environment.items()), *_inherited())
        with self._lock:
            if self._owner != os.getpid():  # this process is itself a copy: they are its parent's
                self._by_state, self._owner = {}, os.getpid()
            self._unfit |= {key for key, server in self._by_state.items() if server.is_unfit}
            self._by_state = {key: server for key, server in self._by_state.items() if server.is_alive}
            if state in self._unfit:
                return None
            if state in self._by_state:
                self._by_state[state] = self._by_state.pop(state)  # the one used last is the last to go
                return self._by_state[state]
            idle = [key for key, server in self._by_state.items() if server.is_idle]
            if len(self._by_state) == MOST_SERVERS and idle:
                self._by_state.pop(idle[0]).end()
            if len(self._by_state) < MOST_SERVERS:
                self._by_state[state] = _Server(imports, environment, log)
            return self._by_state.get(state)

    def end(self) -> None:
        if self._owner == os.getpid():
            for server in self._by_state.values():
                server.end()


_servers = _Servers()
atexit.register(_servers.end)


def fork(
    imports: str, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: int
) -> ForkedProcess | None:
    """Run ``module`` as ``python -m`` does, in a process that has imported the module ``imports`` already.

    ``log``: the file descriptor for its standard error. None where it has to be started in the usual way.
    """
    if not _is_possible(environment):
        return None
    server = _servers.find(imports, environment, log)
    return server.fork(module, arguments, log) if server else None


def prepare(imports: str, environment: Mapping[str, str], log: int) -> None:
    """Have a server import ``imports`` now, for a `fork` to come. Returns at once."""
    if _is_possible(environment):
        _servers.find(imports, environment, log)


def _is_possible(environment: Mapping[str, str]) -> bool:
    """On Linux (5.4 or later); not with a GPU, for which no copy has been tried."""
    return hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal") and not gpus(environment)


def _inherited() -> tuple[Any, ...]:
    """What a process that is started inherits beside its environment."""
    names = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
    limits = [resource.getrlimit(getattr(resource, name)) for name in names]
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return (*limits, *sorted(os.sched_getaffinity(0)), *(line for line in status if line.startswith("Umask")))


def _ends_within(descriptor: int, seconds: float | None) -> bool:
    """Whether the process of a pidfd has ended, after ``seconds`` at most; None waits for as long as it takes."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)  # it is readable when the process has ended
        return bool(selector.select(seconds))

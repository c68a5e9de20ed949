"""Client of `engine.machine.fork_server`: processes forked from one that has already imported what they need.

Each requesting process has one server per environment. If there cannot be one, with a GPU or on systems other than
Linux, `fork` returns None, and a process is started as usual.
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

MOST_SERVERS = 3  # engines, parallel trainings, one training; each uses about 500 MB, shared with its forks
IDLE_S = 300.0  # after which a server without forks exits: a notebook may stay open after its run
SERVER_PATIENCE_S = 2.0  # for a server to exit when it is terminated


class ForkedProcess:
    """A forked process, with the part of the interface of `subprocess.Popen` that is used."""

    def __init__(self, pid: int, descriptor: int, server: socket.socket, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        """``descriptor`` is a pidfd, so a reused process id is never addressed. ``server`` reports the exit code."""
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None
        self._descriptor, self._server, self._lock = descriptor, server, threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code. Raises subprocess.TimeoutExpired if it runs for longer than ``timeout`` seconds."""
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
            # Without an exit code, the server was killed, and the fork with it.
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
    """The parent's end of a server."""

    def __init__(self, imports: str, environment: Mapping[str, str], log: int) -> None:
        self._copies = weakref.WeakSet[ForkedProcess]()
        self._lock = threading.Lock()  # several threads may request forks
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
        """Whether it ended because its imports failed, or started threads and so cannot be forked."""
        return (self._process.poll() or 0) > 0

    @property
    def is_idle(self) -> bool:
        with self._lock:
            copies = list(self._copies)
        return not any(copy.is_running for copy in copies)

    def fork(self, module: str, arguments: Sequence[str], log: int) -> ForkedProcess | None:
        """Request a fork that runs ``module``. Returns None if the server or the working directory is gone."""
        try:
            request = ForkRequest(module=module, arguments=tuple(arguments), folder=str(Path.cwd()))
            content = msgspec.json.encode(request)
        except (OSError, UnicodeEncodeError):  # the folder does not exist any more, or its name is not valid text
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
        """Terminate the server with all its forks, even if it is still importing."""
        self._requests.close()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(SERVER_PATIENCE_S)


class _Servers:
    """The servers of this process."""

    def __init__(self) -> None:
        self._by_state: dict[Any, _Server] = {}
        self._unfit = set[Any]()  # states whose server has failed, and would fail again after a long import
        self._owner, self._lock = os.getpid(), threading.Lock()

    def find(self, imports: str, environment: Mapping[str, str], log: int) -> _Server | None:
        """Return a server whose forks equal a process started now; None if there cannot be one."""
        state = (imports, *sorted(environment.items()), *_inherited())
        with self._lock:
            if self._owner != os.getpid():  # this process is itself a fork, and the servers belong to its parent
                self._by_state, self._owner = {}, os.getpid()
            self._unfit |= {key for key, server in self._by_state.items() if server.is_unfit}
            self._by_state = {key: server for key, server in self._by_state.items() if server.is_alive}
            if state in self._unfit:
                return None
            if state in self._by_state:
                self._by_state[state] = self._by_state.pop(state)  # the last used one is ended last
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
    """Run ``module`` as ``python -P -m`` does, in a process that has already imported the module ``imports``.

    ``log`` is the file descriptor for its standard error. Returns None if the process must be started as usual.
    """
    if not _is_possible(environment):
        return None
    server = _servers.find(imports, environment, log)
    return server.fork(module, arguments, log) if server else None


def prepare(imports: str, environment: Mapping[str, str], log: int) -> None:
    """Start a server that imports ``imports`` for a later `fork`. Returns immediately."""
    if _is_possible(environment):
        _servers.find(imports, environment, log)


def _is_possible(environment: Mapping[str, str]) -> bool:
    """Whether forks are possible: on Linux 5.4 or later, and not with a GPU, for which they are untested."""
    return hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal") and not gpus(environment)


def _inherited() -> tuple[Any, ...]:
    """Return what a new process inherits besides its environment: resource limits, CPU affinity and umask."""
    names = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
    limits = [resource.getrlimit(getattr(resource, name)) for name in names]
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return (*limits, *sorted(os.sched_getaffinity(0)), *(line for line in status if line.startswith("Umask")))


def _ends_within(descriptor: int, seconds: float | None) -> bool:
    """Whether the process of a pidfd ends within ``seconds``; None waits without a limit."""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)  # a pidfd becomes readable when its process ends
        return bool(selector.select(seconds))

"""A server process that has imported what engines need, and is forked for each of them.

Importing torch and vLLM takes longer than opening the bundled model. `engine.machine.forks` starts this process and
requests the forks. Each fork runs a module as ``python -P -m`` would, with its own standard streams. The server has one
thread and has computed nothing. So state that a fork could not inherit, such as a thread pool, does not exist yet. The
server ends with the process that started it, and its forks end with it.

A request is one datagram: the JSON of `ForkRequest`, with four file descriptors for standard input, output and error,
and a socket. The server answers on the socket: first `BORN` with a file descriptor of the process, then `ENDED`.
"""

import contextlib
import gc
import importlib
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import msgspec

from fourshot.engine.machine.collector import collector_paused
from fourshot.engine.machine.parent import PARENT, die_with_parent, notice_parents_end

BORN, ENDED = struct.Struct("i"), struct.Struct("i")  # process id; exit code, negative for a signal
# For the OpenBLAS of NumPy and SciPy, which starts its threads when it is loaded. torch has its own library.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
MOST_REQUEST_BYTES = 1 << 16
NUM_DESCRIPTORS = 4


class ForkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a fork runs."""

    module: str
    arguments: tuple[str, ...]
    folder: str  # its working directory


class ForkServer:
    """Answers requests until the other end of their socket is closed, the parent process ends, or it has been idle."""

    def __init__(self, requests: socket.socket, parent: int, idle_s: float) -> None:
        """``parent`` is a process id; ``idle_s`` is how long the server waits for a request while no fork runs."""
        self._idle_s, self._requests = idle_s, requests
        self._at_interrupt = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the forks and by the parent
        self._children: dict[int, socket.socket] = {}
        self._woken, self._wakes = socket.socketpair()  # signals write here, because they do not interrupt `select`
        for end in (self._woken, self._wakes):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakes.fileno())
        self._parent = os.pidfd_open(parent)
        self._selector = selectors.DefaultSelector()
        for source in (self._requests, self._woken, self._parent):
            self._selector.register(source, selectors.EVENT_READ)

    def serve(self) -> None:
        while True:
            ready = {key.fileobj for key, _ in self._selector.select(None if self._children else self._idle_s)}
            if not ready and not self._children:
                return
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(1 << 12)
                self._report_ends()
            if self._parent in ready:
                return
            if self._requests in ready and not self._answer():
                return

    def _answer(self) -> bool:
        """Fork for the next request. Returns False if the other end of the socket is closed."""
        content, descriptors, _, _ = socket.recv_fds(
            self._requests, MOST_REQUEST_BYTES, NUM_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if not content:
            return False
        with contextlib.ExitStack() as received:
            for number in descriptors:
                received.callback(os.close, number)
            if len(descriptors) == NUM_DESCRIPTORS:  # there are fewer if this process has too many files open
                self._copy(msgspec.json.decode(content, type=ForkRequest), descriptors)
        return True

    def _copy(self, request: ForkRequest, descriptors: list[int]) -> None:
        """Fork for one request. If the system cannot create another process, the request is dropped."""
        *streams, number = descriptors
        server = os.getpid()
        try:
            starter = socket.socket(fileno=os.dup(number))
            child = os.fork()
        except OSError:
            return
        if not child:
            starter.close()
            os.close(number)
            self._run_module(request, streams, server)
        self._children[child] = starter
        try:
            descriptor = os.pidfd_open(child)  # the child has not been waited for, so its id cannot have been reused
        except OSError:
            os.kill(child, signal.SIGKILL)
            return
        with contextlib.suppress(OSError):
            socket.send_fds(starter, [BORN.pack(child)], [descriptor])
        os.close(descriptor)

    def _report_ends(self) -> None:
        while self._children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            if (starter := self._children.pop(child, None)) is None:
                continue  # a process that an import has started
            with contextlib.suppress(OSError):
                starter.send(ENDED.pack(os.waitstatus_to_exitcode(status)))
            starter.close()

    def _run_module(self, request: ForkRequest, streams: list[int], server: int) -> NoReturn:
        """Turn this fork into an ordinary process that runs the module of ``request``, and exit."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, self._at_interrupt)
            self._selector.close()
            for source in (self._requests, self._woken, self._wakes, *self._children.values()):
                source.close()
            os.close(self._parent)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            os.environ[PARENT] = str(server)
            os.chdir(request.folder)
            sys.argv[1:] = request.arguments
            runpy.run_module(request.module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def main() -> None:
    number, parent, imports = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    die_with_parent(parent)  # during the imports; later the server watches the parent itself
    server = ForkServer(socket.socket(fileno=number), parent, idle_s=float(sys.argv[4]))
    usual = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ |= ONE_THREAD
    with collector_paused():
        importlib.import_module(imports)
    for name, value in usual.items():  # only these: forks keep the variables that libraries set on import
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    gc.freeze()  # a collection in a fork would touch existing objects, and so copy their memory pages
    if len([*Path("/proc/self/task").iterdir()]) > 1:
        sys.exit(f"{imports} has started threads, which a copy would not have")
    notice_parents_end()
    server.serve()
    os._exit(0)


if __name__ == "__main__":
    main()

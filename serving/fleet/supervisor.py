"""The process behind `fourshot serve`: it owns the socket, starts the server, and restarts it when it dies.

The socket is opened once and inherited by the server. While there is no server, this process responds itself: 503, with
the time after which to retry. It loads neither torch nor vllm.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.processes import import_path
from fourshot.engine.machine.temporary import temporary_folder
from fourshot.serving.answers import JSON, RefusalError
from fourshot.serving.app.keys import MOST_TASKS_CHARS
from fourshot.serving.app.server import READY, environment
from fourshot.serving.settings import STAGING, ServeSettings, to_json

LONG_ENOUGH_S = 60.0  # if a server lived that long, the pause before the next start is the first one again
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 30.0
PAUSES_GROW = 4  # factor from one pause to the next
MOST_FAILED_STARTS = 3  # in a row, none of them ever ready: the fault is taken to be permanent
GRACE_S = 10.0  # after the time to drain
USAGE = 2  # exit code of a program that rejects its options
LOG_LINES = 15
MOST_LINE_BYTES = 1 << 20  # of the server's output; `serving.app.logs` cuts its own
ROUTER_HEADER_BYTES = 4096 + MOST_TASKS_CHARS  # added to a client's headers; a byte beyond ASCII is forwarded as two

Say = Callable[[str], None]


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket that children inherit; port 0 takes a free one. Raises InputError if that fails."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port} is not a port: give a number from 0, which takes a free one, to 65535.")
    listening = socket.socket(_family(host), socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, TypeError) as error:  # the latter: the name cannot be encoded for a look-up
        listening.close()
        remedy = "Name another port (--port), or end the program that uses it."
        if isinstance(error, socket.gaierror | TypeError):
            remedy = "Name an address of this machine (--host)."
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot listen on {host} port {port}: {reason}. {remedy}") from error
    listening.listen(socket.SOMAXCONN)
    listening.set_inheritable(True)
    return listening


def _family(host: str) -> socket.AddressFamily:
    """Return IPv4, unless ``host`` has only IPv6 addresses."""
    if ":" in host:
        return socket.AF_INET6
    try:
        families = {address[0] for address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        families = set()
    return socket.AF_INET6 if families == {socket.AF_INET6} else socket.AF_INET


def replica_settings(settings: ServeSettings, host: str, listening: socket.socket, keys: Path) -> ServeSettings:
    """Return the settings of one replica, which only the router queries."""
    limits = msgspec.structs.replace(
        settings.limits, max_header_bytes=2 * settings.limits.max_header_bytes + ROUTER_HEADER_BYTES
    )
    return msgspec.structs.replace(
        settings,
        host=host,
        port=listening.getsockname()[1],
        keys=str(keys),
        cors_origins=(),
        allowed_hosts=(),
        behind_router=True,
        router_asks_keys=settings.asks_keys,
        limits=limits,
    )


class Supervisor:
    """One server, kept alive."""

    def __init__(
        self,
        settings: ServeSettings,
        listening: socket.socket,
        log: Path,
        say: Say,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """``log`` gets all output of the server's processes; ``say`` gets messages for its owner."""
        self._settings, self._listening, self._log, self._say = settings, listening, log, say
        self._environment = dict(environment)
        self._stopping = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._stand_in: asyncio.Server | None = None
        self.restarts = 0
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Serve until `stop`. Raises FourshotError if the server cannot be started at all."""
        failed, pause_s = 0, 0.0
        try:
            while not self._stopping.is_set():
                await self._answer_instead()
                started = time.monotonic()
                was_ready, code = await self._one_server()
                if self._stopping.is_set():
                    break
                failed = 0 if was_ready else failed + 1
                if failed and code == USAGE and self._settings.vllm_arguments:
                    reason = (self._last_words().splitlines() or [""])[-1].partition("error: ")[2]
                    raise InputError(
                        f"vLLM's server does not accept what follows --vllm: {reason or 'it ended with code 2'}. "
                        f"Correct it, or leave it out. Its whole output is in {self._log}."
                    )
                if failed >= MOST_FAILED_STARTS or (failed and not self.restarts):
                    raise FourshotError(
                        f"the server cannot be started (exit code {code}). The end of its "
                        f"output:\n{self._last_words()}\nAll of it is in {self._log}."
                    )
                self.restarts += 1
                lived_long = time.monotonic() - started > LONG_ENOUGH_S
                pause_s = 0.0 if lived_long else pause_s
                pause_s = min(max(FIRST_PAUSE_S, PAUSES_GROW * pause_s), LONGEST_PAUSE_S)
                self._say(f"the server ended with exit code {code}; starting it again (log: {self._log})")
                await self._answer_instead()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause_s)
        finally:
            self._close_stand_in()
            self._listening.close()

    def stop(self) -> None:
        """Have the server answer what it has accepted, then end."""
        self._stopping.set()
        child = self._child
        if child is None or child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, ConnectionError):
            if self.ready.is_set() and child.stdin is not None:
                child.stdin.write(b"stop\n")
            else:  # it does not read its input yet
                child.send_signal(signal.SIGTERM)

    async def _one_server(self) -> tuple[bool, int]:
        """Start a server and wait for its end. Return whether it was ever ready, and its exit code."""
        with temporary_folder(STAGING) as staging:
            return await self._serve_from(str(staging))

    async def _serve_from(self, staging: str) -> tuple[bool, int]:
        """As `_one_server`; copies of adapters are stored in ``staging``."""
        descriptor = self._listening.fileno()
        with self._log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # nothing is imported from its working directory
                "-m",
                "fourshot.serving.app.server",
                str(descriptor),
                str(self.restarts),
                staging,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment({**self._environment, "PYTHONPATH": import_path()}, to_json(self._settings)),
                pass_fds=(descriptor,),
                start_new_session=True,  # so that all of its processes can be ended together
                limit=MOST_LINE_BYTES,
            )
        child = self._child
        if self._stopping.is_set():
            self.stop()  # again: there was no process to stop when it was called
        assert child.stdout is not None
        passing_on = asyncio.create_task(self._pass_on_output(child.stdout))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({passing_on, stopping}, return_when=asyncio.FIRST_COMPLETED)
            ended = self.ready.is_set(), await self._end(child)
        finally:
            self.ready.clear()
            self._end_all(child.pid)
            stopping.cancel()
        await passing_on  # to the end of its output
        return ended

    async def _pass_on_output(self, output: asyncio.StreamReader) -> None:
        """Pass on the server's output until its end, and note when it is ready."""
        async for line in output:
            text = line.decode("utf-8", "replace").rstrip()
            if text == READY:
                self._close_stand_in()
                self.ready.set()
            elif text:
                self._say(text)

    async def _end(self, child: asyncio.subprocess.Process) -> int:
        wait_s = self._settings.drain_s + GRACE_S if self._stopping.is_set() else GRACE_S
        try:
            return await asyncio.wait_for(child.wait(), wait_s)
        except TimeoutError:
            self._end_all(child.pid)
            return await child.wait()

    @staticmethod
    def _end_all(group: int) -> None:
        """Kill all processes of a server: the engine is a process of its own, and useless without its server."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)

    async def _answer_instead(self) -> None:
        """Respond to requests with 503 while there is no server."""
        if self._stand_in is None:
            self._stand_in = await asyncio.start_server(
                self._answer_not_ready, sock=socket.socket(fileno=os.dup(self._listening.fileno()))
            )

    def _close_stand_in(self) -> None:
        if self._stand_in is not None:
            self._stand_in.close()
            self._stand_in = None

    async def _answer_not_ready(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state = "restarting" if self.restarts else "starting"
        refusal = RefusalError(503, state, f"The server is {state}.", 5.0)
        body = refusal.body
        headers = {"Content-Type": JSON, "Content-Length": len(body), "Connection": "close", **refusal.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            body = b"" if request.startswith(b"HEAD ") else body
            writer.write(f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n".encode() + body)
            writer.write_eof()
            async with asyncio.timeout(1):  # the rest of the request: closing before it is read would lose the response
                while await reader.read(1 << 16):
                    pass
        writer.close()

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-LOG_LINES:])

"""uvicorn's HTTP protocol, with limits on headers (size and time), unread responses, and connections.

Its refusals have the same format as all others.
"""

import asyncio
import math
import os
import re
import socket
import sys
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from fourshot.serving.answers import JSON, RefusalError, send_answer
from fourshot.serving.app.guard import Guard
from fourshot.serving.app.keys import Keys
from fourshot.serving.settings import NEAR_PROXIES, PROXIES, Limits, ServeSettings

# Java's HttpClient requests HTTP/2 with this header, Apache's requests TLS; the parser would then skip the body. A
# WebSocket's header stays, except on a POST, which cannot become one.
UPGRADE = re.compile(rb"\r\nUpgrade:[^\r\n]*(?=\r\n|\Z)", re.IGNORECASE)
WEBSOCKET = re.compile(rb"\r\nUpgrade:[ \t]*websocket[ \t]*(?=\r\n|\Z)", re.IGNORECASE)
STILL_THERE = b"HTTP/1.1 100 Continue\r\n\r\n"
FIRST_CHECK_S = 0.05  # to the first check whether a client has left
MAX_CHECK_INTERVAL_S = 1.0  # between two such checks
TLS = b"\x16\x03"  # first bytes of a client that takes the address for https
NO_TLS = "The client speaks TLS, the service does not. Use http://, or start it with --vllm --ssl-certfile CERT."


class HeaderGate:
    """Passes headers to the parser in complete lines, without the upgrades that it cannot handle, and counts bytes."""

    def __init__(self) -> None:
        self.num_bytes = 0  # of the headers so far; the protocol resets it when they are complete
        self.is_tls = False
        self._open_line = b""  # the last line so far; its rest may arrive later

    def let_in(self, data: bytes) -> bytes:
        """Return what the parser may have, now that ``data`` has arrived."""
        open_bytes, data = len(self._open_line), self._open_line + data
        end = data.find(b"\r\n\r\n")
        is_whole = end >= 0
        cut = end + 4 if is_whole else _line_end(data)
        head, rest = data[:cut], data[cut:]
        self._open_line = b"" if is_whole else rest
        self.num_bytes += (cut if is_whole else len(data)) - open_bytes
        self.is_tls = data.startswith(TLS)
        if head.startswith(b"POST ") or not WEBSOCKET.search(head):
            head = UPGRADE.sub(b"", head)
        return head + rest if is_whole else head


def _line_end(head: bytes) -> int:
    """Return where the last line break begins; without one, the length of ``head``: the first line is not held back.

    A final CR is left out, because it may begin a line break.
    """
    end = head.rfind(b"\r\n")
    return end if end >= 0 else len(head) - head.endswith(b"\r")


class ReadingWatch:
    """Disconnects a client that reads nothing of its response for ``patience_s`` seconds."""

    def __init__(self, transport: asyncio.Transport, patience_s: float) -> None:
        self._transport, self._patience_s, self._loop = transport, patience_s, asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._read_at, self._unread_bytes = 0.0, 0  # when the client last read some, and what was left

    def start(self) -> None:
        """Watch until the client has read everything. No effect if it is being watched already."""
        if self._timer is None:
            self.has_read()
            self._check_progress()

    def has_read(self) -> None:
        self._read_at = self._loop.time()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _check_progress(self) -> None:
        unread_bytes = self._transport.get_write_buffer_size()
        if unread_bytes < self._unread_bytes:
            self.has_read()
        self._unread_bytes, self._timer = unread_bytes, None
        if unread_bytes and self._loop.time() - self._read_at >= self._patience_s:
            self._transport.abort()
        elif unread_bytes:
            self._timer = self._loop.call_later(self._patience_s / 10, self._check_progress)


async def hang_up_when_gone(transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
    """Disconnect a client that leaves before its response begins.

    `STILL_THERE` was sent to it: the machine of a client that has left responds with a reset.
    """
    wait_s = FIRST_CHECK_S
    while not (cycle.response_started or transport.is_closing()):
        if transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            transport.abort()
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, MAX_CHECK_INTERVAL_S)


class BoundedHttpProtocol(HttpToolsProtocol):
    """Disconnects clients whose headers are too long or too slow, and refuses too many connections; see `Limits`."""

    limits: Limits
    _in_body = False
    _is_over = False  # there were too many connections when this one was made
    _headers_due: asyncio.TimerHandle | None = None
    _leaving: asyncio.Task[None] | None = None  # checks whether a client that closed its side is still there

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # Set here for every server, since vLLM's has uvicorn's 5 s. The event loop gets it, and takes fractions.
        self.timeout_keep_alive = self.limits.keep_alive_s  # type: ignore[assignment]
        self._is_over = len(self.connections) > self.limits.max_connections
        self._gate, self._reading = HeaderGate(), ReadingWatch(transport, self.limits.body_timeout_s)
        self._await_headers(self.limits.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._await_no_headers()
        self._reading.stop()
        if self._leaving is not None:
            self._leaving.cancel()
        super().connection_lost(exc)

    def _await_headers(self, within_s: float) -> None:
        """Disconnect the client unless the headers of its next request are complete within ``within_s`` seconds."""
        self._headers_due = self.loop.call_later(within_s, self.transport.abort)

    def _await_no_headers(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            if self._headers_due is None:  # blank lines between two requests would end the time of an idle connection
                data = data.lstrip(b"\r\n")
            data = self._gate.let_in(data)
            if self._gate.num_bytes > self.limits.max_header_bytes:
                self.transport.abort()
                return
        if data:
            super().data_received(data)

    def on_message_begin(self) -> None:
        if self._headers_due is None:
            self._await_headers(self.limits.header_timeout_s)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # fields after a chunked body are trailers, not headers (RFC 9110, 6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._await_no_headers()
        self._gate.num_bytes, self._in_body = 0, True
        app = self.app
        if self._is_over:
            self.app = _full
        super().on_headers_complete()
        self.app = app

    def on_message_complete(self) -> None:
        self._in_body = False  # the next request on the connection has headers of its own
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._reading.start()
        if self._in_body:  # after a refusal; uvicorn would wait for the rest, and then for a request, without end
            self._await_headers(self.limits.body_timeout_s)
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._reading.start()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._reading.has_read()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        # uvicorn's own message is the same for every fault; the parser's error, being handled now, is specific.
        fault = f"This is not valid HTTP/1.1: {sys.exception() or msg}. Check the Content-Length, too."
        body = RefusalError(400, "bad_request", NO_TLS if self._gate.is_tls else fault).body
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection of a client that has only closed its sending side and waits for its response.

        A client that has left looks the same until something is sent. Source: RFC 9110, section 15.2 (a client of
        HTTP/1.1 ignores 1xx responses that it does not expect).
        """
        cycle = self.cycle
        is_asking = cycle is not None and not (cycle.more_body or cycle.response_complete or self.pipeline)
        if not is_asking or cycle.scope["http_version"] != "1.1" or self.scheme == "https":
            return None  # the connection is then closed
        cycle.keep_alive = False
        if not cycle.response_started:
            self.transport.write(STILL_THERE)
            self._leaving = self.loop.create_task(hang_up_when_gone(self.transport, cycle))
        return True


def bounded_protocol(limits: Limits) -> type[BoundedHttpProtocol]:
    """Return a protocol class for ``uvicorn.Config(http=...)`` that parses as uvicorn does, and enforces ``limits``."""
    return type("BoundedHttpProtocol", (BoundedHttpProtocol,), {"limits": limits})


def server_config(app: Any, settings: ServeSettings) -> uvicorn.Config:
    """Return the uvicorn configuration of a server without vLLM: ``app`` behind the guard, with all limits."""
    limits, keys = settings.limits, Keys(settings.keys) if settings.keys else None
    return uvicorn.Config(
        Guard(app, limits, keys, settings.cors_origins, settings.behind_router, settings.allowed_hosts),
        http=bounded_protocol(limits),
        backlog=limits.max_connections,
        log_level="warning",
        access_log=False,
        forwarded_allow_ips=os.environ.get(PROXIES, NEAR_PROXIES),
        timeout_graceful_shutdown=math.ceil(settings.drain_s),
    )


async def _full(scope: Any, receive: Any, send: Any) -> None:
    refusal = RefusalError(503, "too_many_connections", "There are too many connections.", 1.0)
    await send_answer(send, refusal.code, refusal.body, {**refusal.headers, "Connection": "close"})

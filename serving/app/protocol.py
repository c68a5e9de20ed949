"""Uvicorn's HTTP, with bounds on what a client may send before a request is whole: headers' size, and their time.

Its own refusals come in the form of all others.
"""

import asyncio
import math
import os
import re
import socket
import sys
from typing import TYPE_CHECKING, Any

from fourshot.serving.answers import JSON, RefusalError, send_answer
from fourshot.serving.app.guard import Guard
from fourshot.serving.app.keys import Keys
from fourshot.serving.settings import NEAR_PROXIES, PROXIES, Limits, ServeSettings

if TYPE_CHECKING:
    import uvicorn

# Java's HttpClient asks for HTTP/2 so, Apache's for TLS; the parser would then pass over the body. Only a POST
# cannot become a WebSocket.
WISH = re.compile(rb"\r\nUpgrade:[^\r\n]*(?=\r\n|\Z)", re.IGNORECASE)
WEBSOCKET = re.compile(rb"\r\nUpgrade:[ \t]*websocket[ \t]*(?=\r\n|\Z)", re.IGNORECASE)
STILL_THERE = b"HTTP/1.1 100 Continue\r\n\r\n"
FIRST_LOOK_S, LONGEST_LOOK_S = 0.05, 1.0  # after it was sent, and between two looks
TLS = b"\x16\x03"  # how a client begins that takes the address for https
NO_TLS = "The client speaks TLS, the service does not. Ask http://, or start it with --vllm --ssl-certfile CERT."


def bounded_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """A protocol class for ``uvicorn.Config(http=...)``: parses as uvicorn does, hangs up on who overstays."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class BoundedHttpProtocol(HttpToolsProtocol):
        """Hangs up where headers are longer or slower than the limits; refuses more than so many connections."""

        _header_bytes = 0
        _open_line = b""  # of the headers: the last line so far, of which the rest may come in another part
        _in_body = False
        _is_tls = False
        _is_over = False  # there were too many connections when this one came
        _waiting: asyncio.TimerHandle | None = None
        _reading: asyncio.TimerHandle | None = None  # whether it takes what was sent
        _read_at, _unread_bytes = 0.0, 0  # when it last did, and what was left
        _looking: asyncio.TimerHandle | None = None  # whether the client is there, whose side is closed

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # Of whatever server: vLLM's has uvicorn's 5 s. It is given to the event loop, which takes fractions.
            self.timeout_keep_alive = limits.keep_alive_s  # type: ignore[assignment]
            self._is_over = len(self.connections) > limits.max_connections
            self._await_headers()

        def _await_headers(self) -> None:
            self._waiting = self.loop.call_later(limits.header_timeout_s, self._hang_up)

        def _wait_no_longer(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _hang_up(self) -> None:
            self._wait_no_longer()
            self.transport.abort()

        def data_received(self, data: bytes) -> None:
            if not self._in_body:
                open_bytes, data = len(self._open_line), self._open_line + data
                end = data.find(b"\r\n\r\n")
                cut = end + 4 if end >= 0 else _line_end(data)
                head, rest = data[:cut], data[cut:]
                self._open_line = b"" if end >= 0 else rest
                self._header_bytes += (cut if end >= 0 else len(data)) - open_bytes
                if self._header_bytes > limits.max_header_bytes:
                    self._hang_up()
                    return
                self._is_tls = data.startswith(TLS)
                if head.startswith(b"POST ") or not WEBSOCKET.search(head):
                    head = WISH.sub(b"", head)
                data = head + rest if end >= 0 else head
            if data:
                super().data_received(data)

        def on_message_begin(self) -> None:
            if self._waiting is None:
                self._await_headers()
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            if not self._in_body:  # what follows a chunked body is no header (RFC 9110, 6.5.1)
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._wait_no_longer()
            self._header_bytes, self._in_body = 0, True
            app = self.app
            if self._is_over:
                self.app = _full
            super().on_headers_complete()
            self.app = app

        def on_message_complete(self) -> None:
            self._in_body = False  # the next request on the connection has headers of its own
            super().on_message_complete()

        def on_response_complete(self) -> None:
            self._see_that_it_reads()
            super().on_response_complete()

        def pause_writing(self) -> None:
            self._see_that_it_reads()
            super().pause_writing()

        def resume_writing(self) -> None:
            self._read_at = self.loop.time()
            super().resume_writing()

        def _see_that_it_reads(self) -> None:
            """Hang up on a client that takes nothing of its answer for as long as it may take to send its body."""
            if self._reading is None:
                self._read_at, self._unread_bytes = self.loop.time(), self.transport.get_write_buffer_size()
                self._look_whether_it_reads()

        def _look_whether_it_reads(self) -> None:
            unread_bytes, now = self.transport.get_write_buffer_size(), self.loop.time()
            if unread_bytes < self._unread_bytes:
                self._read_at = now
            self._unread_bytes, self._reading = unread_bytes, None
            if unread_bytes and now - self._read_at >= limits.body_timeout_s:
                self.transport.abort()
            elif unread_bytes:
                self._reading = self.loop.call_later(limits.body_timeout_s / 10, self._look_whether_it_reads)

        def send_400_response(self, msg: str) -> None:
            # uvicorn's own words are the same for every fault; the parser's error, being handled now, says which it is.
            fault = f"This is no HTTP/1.1: {sys.exception() or msg}. Look at the Content-Length, too."
            message = NO_TLS if self._is_tls else fault
            body = RefusalError(400, "bad_request", message).body
            head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n"
            self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
            self.transport.close()

        def eof_received(self) -> bool | None:  # type: ignore[override]
            """A client that sends no more has left, or has closed its side alone and waits for its answer.

            Both look the same until something is sent. Source: RFC 9110, section 15.2 (a client of HTTP/1.1 passes over
            1xx answers that it does not expect); who has left answers it with a reset.
            """
            cycle = self.cycle
            is_asking = cycle is not None and not (cycle.more_body or cycle.response_complete or self.pipeline)
            if not is_asking or cycle.scope["http_version"] != "1.1" or self.scheme == "https":
                return None  # uvicorn then hangs up
            cycle.keep_alive = False
            if not cycle.response_started:
                self.transport.write(STILL_THERE)
                self._look_whether_gone(FIRST_LOOK_S)
            return True

        def _look_whether_gone(self, after_s: float) -> None:
            def look() -> None:
                if self.cycle.response_started or self.transport.is_closing():
                    return
                if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self.transport.abort()
                else:
                    self._look_whether_gone(min(2 * after_s, LONGEST_LOOK_S))

            self._looking = self.loop.call_later(after_s, look)

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_longer()
            for timer in (self._looking, self._reading):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

    return BoundedHttpProtocol


def _line_end(head: bytes) -> int:
    """Where the last line break of headers begins, or may; their length without any: the first line is not held."""
    end = head.rfind(b"\r\n")
    return end if end >= 0 else len(head) - head.endswith(b"\r")


def server_config(app: Any, settings: ServeSettings) -> "uvicorn.Config":
    """Of a server of ours: ``app`` behind the guard, bounded as ``settings`` say."""
    import uvicorn

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

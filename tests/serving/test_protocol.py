"""What clients and proxies do below HTTP's bodies, over a real connection; the application is without a model."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import uvicorn
import uvloop

from fourshot.serving.answers import send_answer
from fourshot.serving.app.protocol import bounded_protocol
from fourshot.serving.settings import Limits
from tests.serving.app_in_process import InProcess
from tests.waiting import until

BODY = b'{"input": "the lock is stuck"}'
LENGTH = b"Content-Length: %d" % len(BODY)


def head(*headers: bytes) -> bytes:
    return b"\r\n".join((b"POST /v1/classify/desk HTTP/1.1", b"Host: x", *headers, b"", b""))


async def started(app: Any, limits: Limits, **uvicorns_own: Any) -> tuple[uvicorn.Server, int]:
    """A server that answers with ``app``, and its port. Whoever asks for it shuts it down."""
    config = uvicorn.Config(app, port=0, http=bounded_protocol(limits), log_config=None, lifespan="off", **uvicorns_own)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    return server, server.servers[0].sockets[0].getsockname()[1]


def response_to(*headers: bytes, body: bytes = BODY, sent: Sequence[bytes] = (), is_last: bool = False) -> bytes:
    """The whole answer to one request; the body is sent a moment after the headers are.

    ``sent``: what is sent instead, each part a moment after the one before. ``is_last``: the client then says that it
    will send no more.
    """

    async def ask() -> bytes:
        limits = Limits()
        server, port = await started(InProcess(limits).guard, limits)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for part in sent or (head(b"Connection: close", *headers), body):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.05 if sent else 0)
            if is_last:
                writer.write_eof()
            answer = await reader.read()
            writer.close()
        finally:
            await server.shutdown()
        return answer

    return asyncio.run(ask())


JAVA = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")


@pytest.mark.parametrize(
    "headers",
    [
        (LENGTH,),
        (LENGTH, *JAVA),
        (LENGTH, b"Connection: Upgrade", b"Upgrade: TLS/1.2"),  # Apache's client
        (LENGTH, b"Connection: upgrade", b"Upgrade: websocket"),  # a proxy that is set up for pages with sockets
        (LENGTH, b"Connection: Upgrade", b"Upgrade: h2c, websocket"),
        (LENGTH, b"Expect: 100-continue"),  # curl's, with a long body
        (b"Transfer-Encoding: chunked",),
    ],
    ids=["plain", "wish for HTTP/2", "wish for TLS", "wish for a socket", "two wishes", "expect", "chunked"],
)
def test_a_body_is_read_however_a_client_announces_it(headers: tuple[bytes, ...]) -> None:
    body = BODY if LENGTH in headers else b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    answer = response_to(*headers, body=body)
    assert b" 200 OK" in answer and b'"label":"lock"' in answer
    assert answer.startswith(b"HTTP/1.1 100 Continue") == (b"Expect: 100-continue" in headers)


def test_what_holds_for_the_first_request_of_a_connection_holds_for_the_next() -> None:
    first = (head(LENGTH, *JAVA), BODY)
    assert response_to(sent=[*first, head(LENGTH, b"Connection: close", *JAVA), BODY]).count(b" 200 OK") == 2
    flood = [b"X-%d: %s" % (number, b"y" * 1000) for number in range(40)]
    assert response_to(sent=[*first, head(LENGTH, *flood)]).count(b"HTTP/1.1 ") == 1


def test_the_empty_line_behind_the_headers_may_come_in_two_parts() -> None:
    body = b'{"input": "%s"}' % (b"the lock is stuck " * 2000)
    lines = head(b"Content-Length: %d" % len(body), b"Connection: close")
    assert b" 200 OK" in response_to(sent=[lines[:-2], lines[-2:] + body])


@pytest.mark.parametrize("cut", [b"PO", b" HTTP/1.1", b"BERT", b"Upg", b"Upgrade: h2", b"h2c", b"h2c\r", b"h2c\r\n"])
def test_headers_may_come_in_two_parts_wherever_these_are_cut(cut: bytes) -> None:
    whole = head(b"Authorization: Bearer BERT", LENGTH, b"Connection: close", *JAVA)
    split_at = whole.index(cut) + len(cut)
    assert b" 200 OK" in response_to(sent=[whole[:split_at], whole[split_at:], BODY])


def test_two_lengths_are_refused_in_the_form_of_all_errors() -> None:
    answer = response_to(LENGTH, b"Content-Length: 3")
    assert answer.startswith(b"HTTP/1.1 400") and b'"type":"bad_request"' in answer
    assert b"Duplicate Content-Length" in answer


def test_who_speaks_tls_is_told_that_the_service_does_not() -> None:
    hello = bytes.fromhex("16030100c8010000c40303") + b"x" * 60
    answer = response_to(sent=[hello])
    assert answer.startswith(b"HTTP/1.1 400") and b"Use http://" in answer


def test_a_client_that_leaves_with_its_body_half_sent_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    assert response_to(LENGTH, body=BODY[:-5], is_last=True) == b""
    assert "failed" not in caplog.text


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("stays", [True, False])
def test_a_client_that_closes_its_side_gets_its_answer_and_one_that_has_left_is_not_worked_for(
    loop: Callable[[], asyncio.AbstractEventLoop], stays: bool
) -> None:
    async def ask() -> tuple[bytes, bool]:
        app, limits = InProcess(), Limits()
        app.scorer.answers.clear()
        server, port = await started(app.guard, limits)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(LENGTH) + BODY)
        await until(lambda: bool(app.service._in_flight.total()))
        writer.write_eof() if stays else writer.close()
        await asyncio.sleep(0.5)
        is_worked_for = bool(app.service._in_flight.total())
        app.scorer.answers.set()
        answer = await reader.read() if stays else b""
        writer.close()
        await server.shutdown()
        return answer, is_worked_for

    with asyncio.Runner(loop_factory=loop) as runner:
        answer, is_worked_for = runner.run(ask())
    assert is_worked_for is stays
    if stays:
        interim, _, answer = answer.partition(b"\r\n\r\n")
        assert interim == b"HTTP/1.1 100 Continue"
        assert answer.startswith(b"HTTP/1.1 200 OK") and b"connection: close" in answer and answer.endswith(b"}")


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("size", [1 << 24, 1 << 23])
@pytest.mark.parametrize("reads", [True, False])
def test_a_client_that_does_not_read_its_answer_holds_no_connection(
    loop: Callable[[], asyncio.AbstractEventLoop], size: int, reads: bool
) -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send_answer(send, 200, bytes(size), {"Connection": "close"})

    async def ask() -> tuple[int, int]:
        server, port = await started(large, Limits(body_timeout_s=1.0))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(LENGTH) + BODY)
        received = 0
        while reads and (part := await reader.read(1 << 20)):
            received += len(part)
            await asyncio.sleep(0.03)  # slowly, for longer than the client may be silent
        with contextlib.suppress(TimeoutError):
            await until(lambda: not server.server_state.connections, 3)
        held = len(server.server_state.connections)
        writer.transport.abort()
        await server.shutdown()
        return received, held

    with asyncio.Runner(loop_factory=loop) as runner:
        received, held = runner.run(ask())
    assert held == 0
    assert (received > size) is reads


@pytest.mark.parametrize("trailer", [b"Content-Encoding: gzip", b"X-Deadline-Ms: 0"])
def test_what_follows_a_chunked_body_is_no_header(trailer: bytes) -> None:
    """A proxy in front looks at headers alone, and sets those that count."""
    body = b"%x\r\n%s\r\n0\r\n%s\r\n\r\n" % (len(BODY), BODY, trailer)
    answer = response_to(b"Transfer-Encoding: chunked", body=body)
    assert b" 200 OK" in answer and b'"label":"lock"' in answer
    assert b" 200 OK" not in response_to(b"Transfer-Encoding: chunked", trailer, body=body), "as a header it counts"


def test_an_idle_connection_is_kept_for_as_long_as_the_limits_say() -> None:
    async def run() -> float:
        limits = Limits(keep_alive_s=2.0)
        server, port = await started(InProcess(limits).guard, limits, timeout_keep_alive=1)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head(LENGTH) + BODY)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            began = asyncio.get_running_loop().time()
            await asyncio.wait_for(reader.read(), 30)  # until the service hangs up
            writer.close()
            return asyncio.get_running_loop().time() - began
        finally:
            await server.shutdown()

    assert asyncio.run(run()) >= 1.9


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (head(LENGTH) + BODY, b"\r\n\r\n"),
        (head(LENGTH) + BODY[:-2], BODY[-2:-1]),
        (head(LENGTH) + BODY[:-2], BODY[-2:]),
    ],
    ids=["blank lines", "a part of a body that was refused", "the rest of one"],
)
def test_nothing_that_is_sent_behind_an_answer_keeps_a_connection_without_end(before: bytes, after: bytes) -> None:
    """A thousand such connections would be all that a service has."""

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send_answer(send, 401, b"{}")

    async def run() -> None:
        limits = Limits(header_timeout_s=0.2, body_timeout_s=0.3, keep_alive_s=0.4)
        server, port = await started(refuse, limits)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(before)
            assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 401")
            writer.write(after)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        finally:
            await server.shutdown()

    asyncio.run(run())

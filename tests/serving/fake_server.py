"""A fake server: real HTTP on a free port, with responses defined by a test."""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import msgspec

from fourshot.serving.answers import RefusalError
from fourshot.serving.api import Classified, ClassifyRequest, ClassifyResponse, TaskInfo, TaskList, Usage

HANG_S = 10.0  # far longer than any test waits


class Reply(NamedTuple):
    """A response."""

    code: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    do: str = ""  # "hang up" before the response, "break off" in the middle of it, or "hang" before it


def refusal(code: int, kind: str = "a_kind", message: str = "It says why.", **headers: str) -> Reply:
    reply_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(code, reply_headers, RefusalError(code, kind, message).body)


class Received(NamedTuple):
    """A received request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    @property
    def texts(self) -> list[str]:
        return [str(text) for text in msgspec.json.decode(self.body, type=ClassifyRequest).inputs]

    @property
    def method(self) -> str | None:
        return msgspec.json.decode(self.body, type=ClassifyRequest).method


class FakeServer(ThreadingHTTPServer):
    """A server that sends ``replies`` in order, and after the last, what `usual` returns."""

    daemon_threads = True
    host = "127.0.0.1"

    def __init__(self) -> None:
        super().__init__((self.host, 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.replies: list[Reply] = []
        self.received: list[Received] = []
        self.over = threading.Event()
        self.lock = threading.Lock()

    def usual(self, request: Received) -> Reply:
        raise NotImplementedError


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body of a response are written separately
    server: FakeServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._reply()

    def _reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Received(self.path, dict(self.headers), body)
        with self.server.lock:
            self.server.received.append(request)
            scripted = self.server.replies.pop(0) if self.server.replies else None
        reply = scripted or self.server.usual(request)
        if reply.do == "hang":
            self.server.over.wait(HANG_S)
        self.close_connection = bool(reply.do)
        if reply.do == "hang up":
            return
        self.send_response(reply.code)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body) + 100 * (reply.do == "break off")))
        self.end_headers()
        self.wfile.write(reply.body)

    def do_POST(self) -> None:
        self._reply()


class FakeService(FakeServer):
    """A service with the task "tone", in which a text's label is its last word."""

    def __init__(self) -> None:
        super().__init__()
        self.answer_s = 0.0  # seconds until a response
        self.most = 1000  # concurrent requests; others get 429
        self.too_long = ""  # a text that is rejected
        self.now = self.peak = 0

    def usual(self, request: Received) -> Reply:
        if request.path == "/health":
            return Reply()
        if not request.body:
            tone = TaskInfo(
                task="tone", labels=["good", "bad"], adapter="tone-1", versions=["tone-1"], pinned=False, methods=[]
            )
            return Reply(body=msgspec.json.encode(TaskList(base_model="a/model", tasks=[tone])))
        with self.lock:
            self.now += 1
            self.peak = max(self.peak, self.now)
            busy = self.now > self.most
        if not busy:
            self.over.wait(self.answer_s)
        with self.lock:  # before the response, because its client may send the next request at once
            self.now -= 1
        if busy:
            return refusal(429, Retry_After="1")
        if self.too_long in request.texts:
            return refusal(413, "too_long", f"The texts at [{request.texts.index(self.too_long)}] are too long.")
        answer = ClassifyResponse(
            task="tone",
            method="icl" if request.method == "icl" else "adapter",
            adapter="tone-1",
            results=[classified(text.split()[-1]) for text in request.texts],
            usage=Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0, total_tokens=0),
            total_ms=1.0,
        )
        return Reply(body=msgspec.json.encode(answer))


def classified(label: str) -> Classified:
    return Classified(
        label=label, probability=0.75, probabilities={label: 0.75, "other": 0.25},
        prompt_tokens=9, cached_tokens=3, queue_ms=0.5, model_ms=2.5,
    )  # fmt: skip


Fake = TypeVar("Fake", bound=FakeServer)


@contextmanager
def served(server: Fake) -> Iterator[Fake]:
    """Run ``server`` until the block is left."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def unused_url() -> str:
    """Return an address at which nothing listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{reserved.getsockname()[1]}"

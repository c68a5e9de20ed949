"""A service that plays: a real HTTP server whose answers a test writes down."""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from fourshot.serving.api import (
    Classified,
    ClassifyRequest,
    ClassifyResponse,
    ErrorAnswer,
    Fault,
    TaskInfo,
    TaskList,
    Usage,
)

HANG_S = 10.0  # far longer than any test waits


class Play(NamedTuple):
    """One answer that is no usual one."""

    code: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    do: str = ""  # "hang up" before the answer, "break off" in the middle of it, "hang"


def refusal(code: int, kind: str = "a_kind", message: str = "It says why.", **headers: str) -> Play:
    body = msgspec.json.encode(ErrorAnswer(error=Fault(message=message, type=kind, code=code)))
    return Play(code, {name.replace("_", "-"): value for name, value in headers.items()}, body)


class Asked(NamedTuple):
    path: str
    headers: dict[str, str]
    texts: list[str]
    method: str | None


class Service(ThreadingHTTPServer):
    """Answers with ``plays`` while there are any, then as a service: a text's label is its last word."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.plays: list[Play] = []
        self.asked: list[Asked] = []
        self.over = threading.Event()
        self.answer_s = 0.0  # how long an answer takes
        self.most = 1000  # requests at a time; 429 for others
        self.too_long = ""  # a text that is refused
        self.now = self.peak = 0
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body of an answer are written apart
    server: Service

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        listed = TaskList(
            base_model="a/model",
            tasks=[
                TaskInfo(
                    task="tone", labels=["good", "bad"], adapter="tone-1", versions=["tone-1"], pinned=False, methods=[]
                )
            ],
        )
        self._play(
            Play(body=b"" if self.path == "/health" else msgspec.json.encode(listed)), Asked(self.path, {}, [], None)
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = msgspec.json.decode(body, type=ClassifyRequest)
        texts = [request.input] if isinstance(request.input, str) else request.input
        answer = ClassifyResponse(
            task="tone",
            method=request.method or "adapter",
            adapter="tone-1",
            results=[classified(text.split()[-1]) for text in texts],
            usage=Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0, total_tokens=0),
            total_ms=1.0,
        )
        asked = Asked(self.path, dict(self.headers), texts, request.method)
        with self.server.lock:
            self.server.now += 1
            self.server.peak = max(self.server.peak, self.server.now)
            busy = self.server.now > self.server.most
        if not busy:
            self.server.over.wait(self.server.answer_s)
        with self.server.lock:  # before the answer is out: whoever has it may ask again at once
            self.server.now -= 1
        usual = refusal(429, Retry_After="1") if busy else Play(body=msgspec.json.encode(answer))
        if self.server.too_long in texts:
            usual = refusal(413, "too_long", f"The texts at [{texts.index(self.server.too_long)}] are too long.")
        self._play(usual, asked)

    def _play(self, usual: Play, asked: Asked) -> None:
        with self.server.lock:
            self.server.asked.append(asked)
            play = self.server.plays.pop(0) if self.server.plays else usual
        if play.do == "hang":
            self.server.over.wait(HANG_S)
        self.close_connection = bool(play.do)
        if play.do == "hang up":
            return
        self.send_response(play.code)
        for name, value in play.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(play.body) + 100 * (play.do == "break off")))
        self.end_headers()
        self.wfile.write(play.body)


def classified(label: str) -> Classified:
    return Classified(
        label=label, probability=0.75, probabilities={label: 0.75, "other": 0.25},
        prompt_tokens=9, cached_tokens=3, queue_ms=0.5, model_ms=2.5,
    )  # fmt: skip


@contextmanager
def playing() -> Iterator[Service]:
    """A service that is up."""
    service = Service()
    thread = threading.Thread(target=service.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield service
    finally:
        service.over.set()
        service.shutdown()
        thread.join()
        service.server_close()


def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"

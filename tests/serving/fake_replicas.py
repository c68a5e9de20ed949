"""Fake replicas whose responses name them, and a router in front of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import uvicorn
from aiohttp import web

from fourshot.serving.api import DEADLINE, TASK_PATHS, TaskInfo, TaskList
from fourshot.serving.app.guard import ACCESS
from fourshot.serving.app.keys import Key
from fourshot.serving.app.protocol import bounded_protocol
from fourshot.serving.fleet.router import Replica, Router
from fourshot.serving.settings import Limits
from tests.waiting import until

KEY = "router-key"


class FakeReplica:
    """A replica whose responses contain its name. Attributes control its responses and record requests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests: list[tuple[str, str, bytes]] = []
        self.client_names: list[str] = []
        self.deadlines: list[str] = []
        self.counts = (0, 0)  # requests and texts in flight that it reports for each task
        self.answer_with = 200
        self.break_next = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.answers_health = asyncio.Event()
        self.answers_health.set()
        self.runner: web.AppRunner | None = None

    async def start(self) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/health":
            await self.answers_health.wait()
            return web.Response(status=200)
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        self.requests.append((request.method, request.path_qs, await request.read()))
        self.client_names.append(request.headers.get("X-Fourshot-Asker", ""))
        if deadline := request.headers.get(DEADLINE):
            self.deadlines.append(deadline)
        if self.break_next:
            self.break_next -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        await self.answers.wait()
        if request.path == "/metrics":
            return web.Response(
                text='# HELP fourshot_tasks b\nfourshot_tasks 3\nfourshot_x{task="a"} 1\nfourshot_y{} 2\n'
            )
        if request.path == "/v1/tasks" and self.answer_with == 200:
            requests, in_flight = self.counts
            plain = TaskInfo(task="a", labels=[], adapter="", versions=[], pinned=False, methods=[])
            plain = msgspec.structs.replace(plain, requests=requests, in_flight=in_flight)
            tasks = [plain, msgspec.structs.replace(plain, task="b")]
            return web.Response(body=msgspec.json.encode(TaskList(base_model="m", tasks=tasks)))
        headers = {"Retry-After": "1"} if self.answer_with == 503 else {}
        return web.json_response({"by": self.name}, status=self.answer_with, headers=headers)


@asynccontextmanager
async def serving(app: Any, limits: Limits) -> AsyncIterator[int]:
    """Serve an ASGI ``app`` as the service does. Yield its port."""
    config = uvicorn.Config(app, port=0, http=bounded_protocol(limits), log_config=None, lifespan="off")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield server.servers[0].sockets[0].getsockname()[1]
    await server.shutdown()


Ask = Callable[..., Awaitable[tuple[int, Any]]]


def routed(
    test: Callable[[Router, list[FakeReplica], Ask], Awaitable[None]], number: int = 2, timeout_s: float = 10
) -> None:
    """Run ``test`` with a router in front of ``number`` fake replicas, and a function that sends requests to it."""

    async def run() -> None:
        fakes = [FakeReplica(str(index)) for index in range(number)]
        replicas = [Replica(index, await fake.start()) for index, fake in enumerate(fakes)]
        router = Router(replicas, Limits(timeout_s=timeout_s), KEY)
        await router.open()
        watching = asyncio.create_task(router.watch())

        async def ask(
            path: str,
            *,
            body: bytes = b"{}",
            key: Key | None = None,
            query: bytes = b"",
            app: Any = None,
            more: Sequence[tuple[bytes, bytes]] = (),
            leaves: asyncio.Event | None = None,
            method: str = "",
        ) -> tuple[int, Any]:
            sent: list[dict[str, Any]] = []

            waiting = [{"type": "http.request", "body": body, "more_body": False}]

            async def receive() -> dict[str, Any]:
                if not waiting:
                    await (leaves or asyncio.Event()).wait()
                    return {"type": "http.disconnect"}
                return waiting.pop()

            async def send(message: dict[str, Any]) -> None:
                sent.append(message)

            headers = [(b"authorization", b"Bearer the-client's-own"), (b"content-type", b"application/json"), *more]
            usual = "POST" if path.startswith(TASK_PATHS) else "GET"
            scope = {"type": "http", "path": path, "method": method or usual, "headers": headers, "query_string": query}
            await (app or router)({**scope, "client": ("192.0.2.1", 1), ACCESS: key}, receive, send)
            answer = b"".join(message.get("body", b"") for message in sent[1:])
            try:
                return sent[0]["status"], json.loads(answer)
            except ValueError:
                return sent[0]["status"], answer.decode()

        try:
            await until(lambda: all(replica.healthy for replica in replicas))
            await test(router, fakes, ask)
        finally:
            watching.cancel()
            await router.close()
            for fake in fakes:
                if fake.runner is not None:
                    await fake.runner.cleanup()

    asyncio.run(run())

"""From HTTP to the service and back: refusals become answers, and a key for some tasks sees no others."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from fourshot.serving.answers import RefusalError
from fourshot.serving.api import ClassifyResponse, Refused, TaskInfo, TaskList, Usage
from fourshot.serving.app.guard import ACCESS
from fourshot.serving.app.keys import Key
from fourshot.serving.app.routes import add_routes
from fourshot.serving.app.service import Caller
from fourshot.serving.fleet.router import Router
from fourshot.serving.settings import Limits
from tests.serving.fake_replicas import Ask, FakeReplica, routed

NOTHING = Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0, total_tokens=0)


class FakeService:
    """Answers for `a` and `b`; `busy` is rejected."""

    async def classify(self, task: str, body: bytes, caller: Caller) -> ClassifyResponse:
        if task == "busy":
            raise RefusalError(429, "overloaded", "Too busy.", 3.4)
        return ClassifyResponse(task=task, method="adapter", adapter="a-1", results=[], usage=NOTHING, total_ms=1.0)

    def tasks(self, everything: bool) -> TaskList:
        tasks = [
            TaskInfo(task=name, labels=[], adapter="", versions=[], pinned=False, methods=[]) for name in ("a", "b")
        ]
        return TaskList(base_model="m", tasks=tasks, refused=[Refused(path="c", reason="why")] if everything else [])


def ask(method: str, path: str, key: Key | None = None) -> httpx.Response:
    app = FastAPI()
    add_routes(app, Limits())
    app.state.fourshot = FakeService()

    async def with_key(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await app({**scope, ACCESS: key}, receive, send)

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=with_key)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, json={"input": "x"} if method == "POST" else None)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "code", "kind", "retry_after"),
    [
        ("POST", "/v1/classify/busy", 429, "overloaded", "4"),
        ("POST", "/v1/classify/b", 403, "forbidden", None),
        ("GET", "/v1/tasks?all=yes", 400, "bad_request", None),
    ],
)
def test_a_refusal_is_an_answer(method: str, path: str, code: int, kind: str, retry_after: str | None) -> None:
    answer = ask(method, path, Key(name="k", sha256="", tasks=("a", "busy")))
    assert (answer.status_code, answer.json()["error"]["type"]) == (code, kind)
    assert (answer.headers.get("Retry-After"), answer.headers["Content-Type"]) == (retry_after, "application/json")


def test_a_key_sees_its_tasks_and_nothing_that_is_refused() -> None:
    limited = Key(name="k", sha256="", tasks=("a",))
    assert ask("POST", "/v1/classify/a", limited).json()["adapter"] == "a-1"
    for key, tasks, refused in ((limited, ["a"], 0), (Key(name="k", sha256=""), ["a", "b"], 1), (None, ["a", "b"], 1)):
        listed = ask("GET", "/v1/tasks?all=1", key).json()
        assert ([info["task"] for info in listed["tasks"]], len(listed["refused"])) == (tasks, refused)


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/classify/a/"), ("GET", "/v1/tasks")])
def test_before_there_is_a_service_it_is_starting(method: str, path: str) -> None:
    async def run() -> httpx.Response:
        app = FastAPI()
        add_routes(app, Limits())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.request(method, path)

    answer = asyncio.run(run())
    assert (answer.status_code, answer.json()["error"]["type"], answer.headers["Retry-After"]) == (503, "starting", "5")


@pytest.mark.parametrize(("seconds", "header"), [(0.2, "1"), (1.0, "1"), (1.2, "2"), (2.5, "3")])
def test_who_waits_as_long_as_it_is_told_does_not_come_too_early(seconds: float, header: str) -> None:
    assert RefusalError(429, "queue", "Busy.", seconds).headers["Retry-After"] == header


def test_headers_that_any_server_writes_are_those_of_the_one_in_front() -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        starts = list[dict[str, Any]]()

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            async def note(message: dict[str, Any]) -> None:
                starts.extend([message] if message["type"].endswith("start") else [])
                await send(message)

            await router(scope, receive, note)

        await ask("/v1/classify/a", app=app)
        names = {name for name, _ in starts[0]["headers"]}
        assert b"content-type" in names and not names & {b"date", b"server"}

    routed(test)

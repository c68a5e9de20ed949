"""Whoever asks through a router, with a key for some tasks, is told what a single server would tell."""

import asyncio
from pathlib import Path
from urllib.parse import unquote

import msgspec
import pytest

from fourshot.pipeline.task import Example
from fourshot.serving.app.guard import Guard
from fourshot.serving.app.keys import MOST_TASKS_CHARS, Key, Keys, add_key
from fourshot.serving.fleet.router import Replica, Router
from fourshot.serving.settings import Limits
from tests.serving.app_in_process import DESK, Answer, InProcess
from tests.serving.fake_replicas import serving
from tests.waiting import until

ASKED = [
    *((method, path) for method in ("GET", "HEAD") for path in ("/v1/tasks", "/v1/tasks/", "/v1/tasks?all=1")),
    ("GET", "/v1/tasks?all=2"),
    ("POST", "/v1/tasks"),
    ("GET", "/v1/models"),
    ("POST", "/v1/classify/later"),  # there is no such task, and the answer says which there are
    ("POST", "/v1/generate/later"),
    ("POST", "/v1/classify/other"),
]


def test_a_key_for_some_tasks_hears_of_no_others_from_a_replica_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fourshot.serving.fleet.router.HEALTH_CHECK_EVERY_S", 0.05)
    monkeypatch.setattr("fourshot.serving.fleet.router.PATIENCE_S", 1.0)
    file, limits = tmp_path / "keys.toml", Limits(timeout_s=5)
    secrets = [add_key(file, "limited", ("desk", "later")), add_key(file, "free")]
    router_key = add_key(tmp_path / "router.toml", "router")
    app = InProcess()
    app.adapters.add(msgspec.structs.replace(DESK, name="other"), [Example(text="a", label="lock")])
    app.bare.get("/health")(lambda: None)
    replica = Guard(app.bare, limits, Keys(tmp_path / "router.toml"), behind_router=True)
    alone = Guard(app.bare, limits, Keys(file))

    async def run() -> None:
        async with serving(replica, limits) as port:
            router = Router([Replica(0, f"http://127.0.0.1:{port}")], limits, router_key)
            routed = Guard(router, limits, Keys(file))
            await router.open()
            watching = asyncio.create_task(router.watch())
            await until(lambda: router.replicas[0].healthy)

            async def ask(guard: Guard, method: str, path: str, secret: str) -> Answer:
                body = b'{"input": "x"}' if method == "POST" else b""
                headers = [("Authorization", f"Bearer {secret}"), ("Content-Type", "application/json")]
                return await app.ask(method, path, body, [*headers, ("X-Fourshot-Tasks", "other")], app=guard)

            for method, path in ASKED:
                for secret in secrets if path != "/v1/classify/other" else secrets[:1]:
                    expected = await ask(alone, method, path, secret)
                    for healthy in (True, False):  # where no replica is, the first that comes back is asked
                        router.replicas[0].healthy = healthy
                        answer = await ask(routed, method, path, secret)
                        assert (answer.code, answer.body) == (expected.code, expected.body), (method, path, healthy)
                    if secret == secrets[0]:
                        assert b"other" not in answer.body or answer.code == 403
            assert b"other" in (await ask(routed, "GET", "/v1/tasks", secrets[1])).body
            watching.cancel()
            router.replicas[0].healthy = False
            answer = await ask(routed, "GET", "/v1/tasks", secrets[0])
            assert (answer.code, answer.error["type"], answer.headers["retry-after"]) == (503, "no_replica", "5")
            await router.close()

    asyncio.run(run())


def test_a_key_for_thousands_of_tasks_fits_into_a_header_and_one_whose_names_do_not_is_for_none() -> None:
    tasks = tuple(f"task, number {number} é" for number in range(5000))
    key = Key(name="k", sha256="0" * 64, tasks=tasks)
    field = key.tasks_field(tasks[-1])
    assert field.isascii() and MOST_TASKS_CHARS - 100 < len(field) <= MOST_TASKS_CHARS
    seen = key.limited_to(field).tasks
    assert seen[0] == tasks[-1] and seen[1:] == tasks[: len(seen) - 1] and unquote(field.split(",")[1]) == tasks[0]
    long = msgspec.structs.replace(key, tasks=("x" * (MOST_TASKS_CHARS + 1),))
    assert not long.limited_to(long.tasks_field("")).may_ask("x")

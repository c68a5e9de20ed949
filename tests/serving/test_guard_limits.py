"""How many requests of one client may be on their way, and whose a request is."""

import asyncio
from pathlib import Path
from typing import Any

from fourshot.serving.app.guard import CLIENT_NAME, Guard
from fourshot.serving.app.keys import Keys, add_key
from fourshot.serving.settings import Limits
from tests.serving.test_guard import App, ask, bearer, file
from tests.waiting import until

__all__ = ("file",)  # a fixture


def test_one_key_has_only_so_many_requests_on_their_way(file: Path) -> None:
    free_key, limited_key = add_key(file, "many"), add_key(file, "few", max_concurrent=2)

    async def run() -> tuple[list[int], int, int]:
        guard = Guard(app := App(), Limits(max_concurrent=5), Keys(file))
        app.wait.clear()
        tasks = [asyncio.create_task(ask(guard, headers=bearer(limited_key))) for _ in range(4)]
        await until(lambda: len(app.requests) == 2 and sum(task.done() for task in tasks) == 2)
        other_request = asyncio.create_task(ask(guard, headers=bearer(free_key)))
        await until(lambda: len(app.requests) == 3)
        app.wait.set()
        codes = [(await task)[0] for task in tasks]
        return codes, (await other_request)[0], (await ask(guard, headers=bearer(limited_key)))[0]

    codes, other_code, later = asyncio.run(run())
    assert sorted(codes) == [200, 200, 429, 429]
    assert other_code == later == 200


def test_a_replica_leaves_the_counting_of_requests_to_its_router(file: Path) -> None:
    key = add_key(file, "router")

    async def run() -> list[int]:
        guard = Guard(app := App(), Limits(max_concurrent=2), Keys(file), behind_router=True)
        app.wait.clear()
        headers = {**bearer(key), "X-Fourshot-Asker": "key%20that%20may%20have%20five"}
        tasks = [asyncio.create_task(ask(guard, headers=headers)) for _ in range(5)]
        await until(lambda: len(app.requests) == 5 or any(task.done() for task in tasks))
        app.wait.set()
        return [(await task)[0] for task in tasks]

    assert asyncio.run(run()) == [200] * 5


def test_without_keys_one_address_does_not_use_up_the_requests_of_another() -> None:
    async def run() -> None:
        guard = Guard(app := App(), Limits(max_concurrent=2), None)
        app.wait.clear()
        flood = [asyncio.create_task(ask(guard, peer="192.0.2.1")) for _ in range(4)]
        await until(lambda: len(app.requests) == 2 and sum(task.done() for task in flood) == 2)
        other_request = asyncio.create_task(ask(guard, peer="192.0.2.2"))
        await until(lambda: len(app.requests) == 3)
        app.wait.set()
        codes = sorted([(await task)[0] for task in flood])
        assert (codes, (await other_request)[0]) == ([200, 200, 429, 429], 200)

    asyncio.run(run())


def test_whose_a_request_is_follows_from_its_key_its_address_or_the_router_alone(file: Path) -> None:
    key = add_key(file, "one")
    forged = {"X-Fourshot-Asker": "key%20other"}

    async def client_name(guard: Guard, **headers: str) -> str:
        await ask(guard, headers=headers)
        return str(names[-1])

    names: list[str] = []

    class Seeing(App):
        async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
            names.append(scope[CLIENT_NAME])
            await super().__call__(scope, receive, send)

    assert asyncio.run(client_name(Guard(Seeing(), Limits(), None), **forged)) == "192.0.2.1"
    assert asyncio.run(client_name(Guard(Seeing(), Limits(), Keys(file)), **forged, **bearer(key))) == "key one"
    behind = Guard(Seeing(), Limits(), Keys(file), behind_router=True)
    assert asyncio.run(client_name(behind, **forged, **bearer(key))) == "key%20other"


def test_a_body_that_is_on_its_way_counts_as_a_request() -> None:
    """Each takes memory for as long as it comes, and one client could have as many as there are connections."""

    async def run() -> None:
        guard, rest = Guard(App(), Limits(max_concurrent=2), None), asyncio.Event()

        async def slowly() -> dict[str, Any]:
            await rest.wait()
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def begin() -> int:
            sent: list[dict[str, Any]] = []

            async def send(message: dict[str, Any]) -> None:
                sent.append(message)

            scope = {"type": "http", "method": "POST", "path": "/v1/classify/mood", "headers": [], "query_string": b""}
            await guard({**scope, "client": ("192.0.2.1", 1)}, slowly, send)
            return int(sent[0]["status"])

        slow = [asyncio.create_task(begin()) for _ in range(2)]
        await until(lambda: guard._busy.total() == 2)
        assert await begin() == 429
        rest.set()
        assert [await task for task in slow] == [200, 200]
        assert not guard._busy

    asyncio.run(run())

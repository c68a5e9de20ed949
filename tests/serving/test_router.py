"""One address for several replicas: where a request goes, and that none is lost with its replica."""

import asyncio
import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fourshot.serving.answers import send_answer
from fourshot.serving.app.guard import Guard
from fourshot.serving.app.keys import Key
from fourshot.serving.fleet.merged_pages import merged
from fourshot.serving.fleet.router import Replica, Router, preference
from fourshot.serving.fleet.supervisor import listen, replica_settings
from fourshot.serving.settings import Limits, ServeSettings
from tests.serving.fake_replicas import KEY, Ask, FakeReplica, routed, serving
from tests.waiting import until


def test_a_task_stays_with_its_replica_and_tasks_are_spread() -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        homes = {}
        for number in range(40):
            answers = {(await ask(f"/v1/classify/task-{number}"))[1]["by"] for _ in range(3)}
            assert len(answers) == 1
            homes[number] = answers.pop()
        assert min(Counter(homes.values()).values()) >= 8

    routed(test, number=3)


def test_names_that_no_task_has_take_no_memory() -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        preference.cache_clear()
        for number in range(10):
            router.order(f"/v1/classify/{'x' * 30_000}{number}")
        assert preference.cache_info().currsize == 1

    routed(test)


def test_a_busy_home_is_passed_over() -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        home = int((await ask("/v1/classify/popular"))[1]["by"])
        fakes[home].answers.clear()
        asking = asyncio.gather(*(ask("/v1/classify/popular") for _ in range(60)))
        await until(lambda: len(fakes[1 - home].requests) > 5)
        fakes[home].answers.set()
        answers = await asking
        by = Counter(answer["by"] for _, answer in answers)
        assert by[str(home)] > by[str(1 - home)] > 5

    routed(test)


@pytest.mark.parametrize("fault", ["breaks", "restarts"])
def test_no_request_is_lost_with_its_replica(fault: str) -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        home = int((await ask("/v1/classify/a"))[1]["by"])
        if fault == "breaks":
            fakes[home].break_next = 5
        else:
            fakes[home].answer_with = 503
        answers = await asyncio.gather(*(ask("/v1/classify/a", body=b'{"input": "x"}') for _ in range(5)))
        assert {(code, answer["by"]) for code, answer in answers} == {(200, str(1 - home))}
        assert fakes[1 - home].requests[-1] == ("POST", "/v1/classify/a", b'{"input": "x"}')

    routed(test)


def test_where_all_are_away_it_waits_a_while_then_says_so() -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        for fake in fakes:
            assert fake.runner is not None
            await fake.runner.cleanup()
            fake.runner = None
        await until(lambda: not any(replica.healthy for replica in router.replicas))
        for path in ("/health", "/ping"):
            code, answer = await ask(path)
            assert (code, answer["error"]["type"]) == (503, "starting"), "at once: it is no matter of one replica"
        code, answer = await ask("/v1/classify/a")
        assert (code, answer["error"]["type"]) == (503, "no_replica")

    routed(test)


def test_a_key_for_some_tasks_sees_and_asks_no_others() -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        key = Key(name="k", sha256="", tasks=("a",))
        assert (await ask("/v1/classify/b", key=key))[0] == 403
        assert (await ask("/v1/classify/a", key=key))[0] == 200
        assert [info["task"] for info in (await ask("/v1/tasks", key=key))[1]["tasks"]] == ["a"]
        assert [info["task"] for info in (await ask("/v1/tasks"))[1]["tasks"]] == ["a", "b"]
        for fake in fakes:
            fake.answer_with = 400  # to `?all=2`
        assert (await ask("/v1/tasks", key=key))[0] == 400

    routed(test)


def test_paths_and_queries_arrive_as_they_were_sent() -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        await ask("/v1/tasks", query=b"all=1&x=%2f")
        assert ("GET", "/v1/tasks?all=1&x=%2f") in {request[:2] for replica in fakes for request in replica.requests}

    routed(test)


def test_a_replica_gets_the_address_without_a_slash_the_body_unpacked_and_whose_it_is() -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        text = b'{"input": "' + b"x" * 100 + b'"}'
        body = gzip.compress(text)
        more = [
            (b"content-encoding", b"gzip"),
            (b"content-length", str(len(body)).encode()),
            (b"x-fourshot-asker", b"somebody"),
        ]
        assert (await ask("/v1/classify/a/", body=body, app=Guard(router, Limits()), more=more))[0] == 200
        (request,) = [request for replica in fakes for request in replica.requests]
        assert request == ("POST", "/v1/classify/a", text)
        assert [name for replica in fakes for name in replica.client_names] == ["192.0.2.1"]

    routed(test)


def test_headers_that_the_router_takes_are_taken_by_its_replicas_too(tmp_path: Path) -> None:
    async def fine(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send_answer(send, 200, b"{}")

    async def run() -> None:
        limits = Limits(timeout_s=5)
        with listen("127.0.0.1", 0) as listening:
            own_settings = replica_settings(ServeSettings(adapters="", limits=limits), "127.0.0.1", listening, tmp_path)
        async with serving(fine, own_settings.limits) as port:
            router = Router([Replica(0, f"http://127.0.0.1:{port}")], limits, KEY)
            await router.open()
            watching = asyncio.create_task(router.watch())
            async with serving(Guard(router, limits), limits) as front:
                for value in (b"y" * 32_600, b"\xe9" * 30_000):
                    reader, writer = await asyncio.open_connection("127.0.0.1", front)
                    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: %s\r\n\r\n" % value)
                    assert (await reader.read()).startswith(b"HTTP/1.1 200")
                    writer.close()
            watching.cancel()
            await router.close()

    asyncio.run(run())


def test_metrics_say_which_replica() -> None:
    page = '# HELP a b\n# TYPE a gauge\na 3\nb{task="a"} 1\n# TYPE c_total counter\nc_total{} 2\n'
    pages = {0: page, 1: page, 2: "<!doctype html>"}  # of another program, which has the port of a replica that ended
    lines = [line for line in merged(pages).decode().splitlines() if not line.startswith("#")]
    assert lines == [
        'a{replica="0"} 3.0',  # samples of one metric stand together
        'a{replica="1"} 3.0',
        'b{replica="0",task="a"} 1.0',
        'b{replica="1",task="a"} 1.0',
        'c_total{replica="0"} 2.0',
        'c_total{replica="1"} 2.0',
    ]

    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        text = (await ask("/metrics"))[1]
        assert text.count("# HELP fourshot_tasks b") == 1
        assert 'fourshot_tasks{replica="0"} 3' in text and 'fourshot_tasks{replica="1"} 3' in text

    routed(test)

"""Which replicas are healthy, as a router sees them, and its work beside requests: clients leave, a replica hangs."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fourshot.serving.fleet.replicas import Replicas
from fourshot.serving.fleet.router import Router
from fourshot.serving.fleet.supervisor import listen
from fourshot.serving.settings import ServeSettings
from tests.serving.fake_replicas import Ask, FakeReplica, routed
from tests.waiting import until


def test_a_request_waits_a_moment_where_all_replicas_seem_to_be_away() -> None:
    """A busy one may be taken for gone just when the other has died."""

    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        for replica in router.replicas:
            replica.healthy = False
        code, answer = await ask("/v1/classify/task")
        assert (code, answer["by"] in "01") == (200, True)

    routed(test)


def test_a_connection_that_breaks_is_no_proof_that_its_replica_is_gone() -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        assert fakes[1].runner is not None
        await fakes[1].runner.cleanup()
        fakes[1].runner = None
        fakes[0].break_next = 1
        assert (await ask("/v1/classify/task"))[1] == {"by": "0"}

    routed(test)


def test_a_replica_that_answers_late_once_is_not_taken_for_gone_and_others_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fourshot.serving.fleet.router.HEALTH_TIMEOUT_S", 0.4)
    monkeypatch.setattr("fourshot.serving.fleet.router.HEALTH_CHECK_EVERY_S", 0.05)

    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        late, other = router.replicas
        fakes[0].answers_health.clear()
        other.healthy = False
        await until(lambda: other.healthy, 0.3)  # sooner than the first check of the late one ends
        await until(lambda: late.misses == 1)
        assert late.healthy
        await until(lambda: late.misses >= 2)
        await until(lambda: not late.healthy, 0.1)
        fakes[0].answers_health.set()
        await until(lambda: late.healthy)
        assert late.misses == 0

    routed(test)


def test_nothing_that_a_look_comes_to_ends_the_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourshot.serving.fleet.router.HEALTH_CHECK_EVERY_S", 0.05)

    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        replica = router.replicas[0]
        address, replica.address = replica.address, "no address"
        await until(lambda: not replica.healthy)
        replica.address = address
        await until(lambda: replica.healthy)

    routed(test)


def test_a_replica_need_not_go_on_for_a_client_that_has_left() -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        for fake in fakes:
            fake.answers.clear()
        leaves = asyncio.Event()
        asking = asyncio.ensure_future(ask("/v1/classify/task", leaves=leaves))
        await until(lambda: sum(replica.in_flight for replica in router.replicas) == 1)
        leaves.set()
        with pytest.raises(IndexError):  # nothing was sent
            await asking
        assert [replica.in_flight for replica in router.replicas] == [0, 0]
        assert all(replica.healthy for replica in router.replicas)
        for fake in fakes:
            fake.answers.set()
        assert (await ask("/v1/classify/task"))[0] == 200

    routed(test)


def test_one_replica_that_hangs_does_not_take_the_metrics_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourshot.serving.fleet.router.HEALTH_TIMEOUT_S", 0.3)

    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        fakes[0].answers.clear()
        code, page = await asyncio.wait_for(ask("/metrics"), 5)
        assert (code, 'fourshot_tasks{replica="1"}' in page, 'replica="0"' in page) == (200, True, False)
        fakes[0].answers.set()

    routed(test)


def test_metrics_wait_no_longer_for_a_replica_that_is_known_to_be_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourshot.serving.fleet.router.HEALTH_TIMEOUT_S", 0.1)
    monkeypatch.setattr("fourshot.serving.fleet.router.HEALTH_CHECK_EVERY_S", 0.05)

    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        fakes[0].answers.clear()
        fakes[0].answers_health.clear()
        await until(lambda: not router.replicas[0].healthy)
        monkeypatch.setattr("fourshot.serving.fleet.router.HEALTH_TIMEOUT_S", 60)
        code, page = await asyncio.wait_for(ask("/metrics"), 5)
        assert (code, 'replica="1"' in page, 'replica="0"' in page) == (200, True, False)
        fakes[0].answers.set()
        fakes[0].answers_health.set()

    routed(test)


def test_over_ray_a_replica_that_is_long_in_starting_keeps_nobody_from_following_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Actors:
        """The first is being started again; the second has another address whenever it is asked."""

        def __init__(self, *_: object) -> None:
            self.asked = 0

        def addresses(self, wait_s: float) -> list[str]:
            if self.asked:
                time.sleep(min(wait_s, 60))
            self.asked += 1
            return ["" if self.asked > 1 else "http://first", f"http://second-{self.asked}"]

        def close(self) -> None:
            pass

    monkeypatch.setattr("fourshot.serving.fleet.ray_replicas.RayReplicas", Actors)
    monkeypatch.setattr("fourshot.serving.fleet.replicas.FOLLOW_S", 0.01)
    monkeypatch.setattr("fourshot.serving.fleet.replicas.FOLLOW_WAIT_S", 0.1)
    (tmp_path / "keys.toml").touch()

    async def run() -> None:
        with listen("127.0.0.1", 0) as listening:
            settings, said = ServeSettings(adapters=""), list[str]()
            fleet = Replicas(settings, listening, 2, "local", tmp_path / "serve.log", said.append)
            async with fleet._over_ray(tmp_path / "keys.toml") as replicas:
                assert [replica.address for replica in replicas] == ["http://first", "http://second-1"]
                await until(lambda: "second-2" in replicas[1].address, 5)
                assert replicas[0].address == "http://first"
            assert said[0] == "replica 1 is now at http://second-2"

    asyncio.run(run())


def test_what_the_router_answers_itself_is_read_alone() -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        for path in ("/metrics", "/health"):
            assert (await ask(path))[0] == 200
            code, answer = await ask(path, method="OPTIONS")
            assert (code, answer["error"]["type"]) == (405, "method_not_allowed")

    routed(test)


def test_a_list_of_tasks_has_the_requests_of_all_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourshot.serving.fleet.router.HEALTH_TIMEOUT_S", 0.3)

    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        fakes[0].counts, fakes[1].counts = (3, 1), (4, 0)
        code, listed = await ask("/v1/tasks", query=b"all=1")
        assert code == 200
        assert [(info["task"], info["requests"], info["in_flight"]) for info in listed["tasks"]] == [
            ("a", 7, 1),
            ("b", 7, 1),
        ]
        assert all(fake.requests[-1][1] == "/v1/tasks?all=1" for fake in fakes)
        fakes[0].answers.clear()  # one that hangs counts for nothing
        assert (await ask("/v1/tasks"))[1]["tasks"][0]["requests"] == 4
        fakes[0].answers.set()

    routed(test)


@pytest.mark.parametrize("page", ["<html>Welcome</html>", '{"tasks": 3}'])
def test_what_answers_with_no_list_of_tasks_counts_for_nothing(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        asked = router._pages
        fakes[1].counts = (4, 0)

        async def pages(path: str, replicas: Sequence[Any]) -> dict[int, str]:
            return {**await asked(path, replicas), 0: page}

        monkeypatch.setattr(router, "_pages", pages)
        code, listed = await ask("/v1/tasks")
        assert (code, listed["tasks"][0]["requests"]) == (200, 4)

    routed(test)


def test_a_deadline_is_one_for_all_attempts_and_the_rest_of_it_is_sent_on() -> None:
    async def test(router: Router, fakes: list[FakeReplica], ask: Ask) -> None:
        more = [(b"x-deadline-ms", b"400")]
        assert (await ask("/v1/classify/a", more=more))[0] == 200
        (deadline,) = [deadline for fake in fakes for deadline in fake.deadlines]
        assert 0 < int(deadline) <= 400
        for fake in fakes:
            fake.answer_with = 503
        began = time.monotonic()
        code, answer = await ask("/v1/classify/a", more=more)
        assert (code, answer["error"]["type"]) == (504, "timeout") and "0.4 s" in answer["error"]["message"]
        assert time.monotonic() - began < 4
        code, answer = await ask("/v1/classify/a", more=[(b"x-deadline-ms", b"soon")])
        assert (code, answer["error"]["type"]) == (400, "bad_deadline")

    routed(test)

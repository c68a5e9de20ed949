"""Replicas over a Ray cluster that has no room for all of them."""

import asyncio
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from fourshot.engine.errors import FourshotError
from fourshot.serving.fleet import ray_replicas, replicas
from fourshot.serving.fleet.ray_replicas import RayReplicas
from fourshot.serving.fleet.replicas import Replicas
from fourshot.serving.fleet.supervisor import listen
from fourshot.serving.settings import ServeSettings

BOUND_S = 60.0  # on a busy machine; these tests take a moment


class FakeCluster:
    """Ray with room for the replicas ``up``; the others wait for a machine."""

    def __init__(self, up: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.waited, self.up, self._number = list[str](), list[list[str]](), up, 0
        for name, value in {"cluster": nullcontext(), "machine_setup": nullcontext(), "check_machines": None}.items():
            monkeypatch.setattr(ray_replicas, name, lambda *_, value=value, **__: value)
        for name, number in {"has_gpus": True, "machines": [], "nodes": {}}.items():
            monkeypatch.setattr(ray_replicas, name, lambda number=number: number)
        fakes = {"remote": self.remote, "wait": self.wait, "get": lambda call: f"http://{call}", "kill": lambda _: None}
        for name, fake in fakes.items():
            monkeypatch.setattr(ray, name, fake)

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.start))

    def start(self, *_: object) -> Any:
        number, self._number = self._number, self._number + 1

        def called(name: str) -> str:
            self.calls.append(f"{name}-{number}")
            return self.calls[-1]

        methods = {name: SimpleNamespace(remote=partial(called, name)) for name in ("address", "stop")}
        return SimpleNamespace(**methods)

    def wait(self, calls: list[str], *, num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        assert 0 < num_returns == len(calls)
        self.waited.append(calls)
        return [call for call in calls if int(call.rpartition("-")[2]) in self.up], []


def test_a_replica_without_a_machine_is_told_of_and_no_calls_to_it_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_replicas, "NOTICE_S", 0.0)
    cluster, heard = FakeCluster({0}, monkeypatch), list[str]()
    service = RayReplicas(ServeSettings(adapters="", students_only=True), 2, "auto", "", heard.append)
    for _ in range(5):
        assert service.addresses(1.0) == ["http://address-0", ""]
    assert (cluster.calls.count("address-0"), cluster.calls.count("address-1")) == (5, 1)
    assert heard == [
        "replica 1 is not up: the cluster has no room for it, or its machine does not respond (`ray status`)"
    ]
    service.close()
    assert cluster.waited[-1] == ["stop-0"], "nobody waits for one that was never up to answer what it accepted"
    cluster.up.clear()
    nobody = RayReplicas(ServeSettings(adapters="", students_only=True), 1, "auto", "", heard.append)
    assert nobody.addresses(1.0) == [""]
    nobody.close()


class Slow:
    """Replicas that get a machine one after another, or none at all."""

    up: tuple[str, ...] = ("", "")

    def __init__(self, *_: object) -> None: ...

    def addresses(self, wait_s: float) -> list[str]:
        assert wait_s <= replicas.FOLLOW_WAIT_S, "nobody can stop the command meanwhile"
        time.sleep(min(wait_s, 0.05))
        return [*self.up]

    def close(self) -> None: ...


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(ray_replicas, "RayReplicas", Slow)
    monkeypatch.setattr(replicas, "FOLLOW_S", 0.05)
    with listen("127.0.0.1", 0) as listening:
        settings = ServeSettings(adapters="", port=listening.getsockname()[1])
        yield Replicas(settings, listening, 2, "auto", tmp_path / "serve.log", lambda line: None)


def test_a_service_is_up_with_its_first_replica(
    fleet: Replicas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slow, "up", ("http://first", ""))
    (tmp_path / "keys.toml").touch()

    async def run() -> list[str]:
        async with fleet._over_ray(tmp_path / "keys.toml") as started:
            return [replica.address for replica in started]

    assert asyncio.run(asyncio.wait_for(run(), BOUND_S)) == ["http://first", ""]


def test_a_service_that_waits_for_its_first_replica_can_be_stopped(fleet: Replicas) -> None:
    async def run() -> None:
        serving = asyncio.create_task(fleet.run())
        await asyncio.sleep(0.1)
        fleet.stop()
        await serving

    asyncio.run(asyncio.wait_for(run(), BOUND_S))
    assert not fleet.ready.is_set()


def test_a_cluster_without_room_ends_the_command(fleet: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "WAIT_S", 0.2)
    with pytest.raises(FourshotError, match=r"no room for a replica within 0 s\. `ray status` shows"):
        asyncio.run(asyncio.wait_for(fleet.run(), BOUND_S))

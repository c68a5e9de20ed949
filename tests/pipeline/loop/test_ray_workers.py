"""Engines over Ray: the rows are those of one engine alone, also where one of them leaves in the middle."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import FourshotError
from fourshot.pipeline.loop import ray_workers
from fourshot.pipeline.loop.local_worker import MOST_DEATHS
from fourshot.pipeline.loop.ray_workers import RayWorkers
from fourshot.pipeline.loop.units import UnitProgress, UnitResult
from tests.pipeline.corpus.small_corpora import make, named, rows_of, settings


def test_a_worker_that_leaves_costs_no_row_and_the_rows_are_those_of_one_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    run_settings = settings(per_class=60)
    tasks = named("one", "two", "three")
    make(tmp_path / "alone", tasks, run_settings)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # so many cores Ray has: two engines
    monkeypatch.setattr("fourshot.pipeline.loop.ray_workers.LOOK_S", 0.0)
    heard: list[str] = []
    killed: list[object] = []
    wait = RayWorkers.wait

    def kill_one_in_between(workers: RayWorkers, timeout_s: float) -> list[UnitResult | UnitProgress]:
        results = wait(workers, timeout_s)
        heard.extend(result.engine for result in results if isinstance(result, UnitResult))
        if len(set(heard)) == 2 and not killed:
            busiest = max(workers._actors, key=lambda actor: actor.requests)
            assert busiest.units, "nothing to lose"
            killed.append(busiest)
            ray.kill(busiest.actor)
        return results

    monkeypatch.setattr(RayWorkers, "wait", kill_one_in_between)
    summary = make(tmp_path / "spread", tasks, run_settings, ray="local", model="fake:delay_s=0.005")
    assert summary.rates.engine_starts >= 3, "nobody took the place of the one that left"
    assert killed and len(set(heard)) >= 2
    assert rows_of(tmp_path / "spread") == rows_of(tmp_path / "alone")
    assert not ray.is_initialized()


def workers_without_ray(machines: dict[str, int], tell: Callable[[str], None], patch: pytest.MonkeyPatch) -> RayWorkers:
    """Return workers on a cluster that is only said to be there, with ``machines``: name -> devices."""
    for name, value in {"cluster": nullcontext(), "machine_setup": nullcontext(), "has_gpus": False}.items():
        patch.setattr(ray_workers, name, lambda *_, value=value, **__: value)
    patch.setattr(ray_workers, "nodes", lambda *_: machines)
    patch.setattr(ray_workers, "LOOK_S", 0.0)
    return RayWorkers(EngineSettings(model="fake"), "10.0.0.1:6379", tell=tell)


def test_actors_that_answer_and_die_without_a_result_exclude_their_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Ray's memory monitor kills them while their engines open: they answer before, that there is nothing."""
    import ray

    class Actor:
        def __init__(self) -> None:
            self.exchange, self.calls = self, 0

        def remote(self, briefs: bytes, units: bytes) -> tuple["Actor", int]:
            self.calls += 1
            return self, self.calls

    def answer(call: tuple[Actor, int]) -> bytes:
        if call[1] > 1:
            raise ray.exceptions.RayError("The node was running low on memory.")
        return b"[]"

    def started(workers: RayWorkers, node: str) -> Any:
        workers.starts += 1
        return ray_workers._ActorState(actor=Actor(), node=node)

    monkeypatch.setattr(ray, "get", answer)
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    monkeypatch.setattr(ray, "wait", lambda calls, **_: (calls, []))
    monkeypatch.setattr(RayWorkers, "_start", started)
    heard: list[str] = []
    workers = workers_without_ray({"machine": 2}, heard.append, monkeypatch)

    def wait_long() -> None:
        for _ in range(50):
            workers.wait(0.0)

    with pytest.raises(FourshotError, match=r"died before it had a result: .*low on memory"):
        wait_long()
    assert MOST_DEATHS <= workers.starts <= 2 * MOST_DEATHS and len(heard) == 1 and "is excluded" in heard[0]


def test_a_cluster_whose_devices_are_busy_or_not_there_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray lets an actor wait for as long as others use its devices, and says nothing."""
    import ray

    monkeypatch.setattr(ray, "wait", lambda calls, **_: ([], calls))
    monkeypatch.setattr(ray_workers, "NOTICE_S", 0.0)
    state = ray_workers._ActorState(actor=SimpleNamespace(), node="machine", call="a call")
    monkeypatch.setattr(RayWorkers, "_start", lambda workers, node: state)
    monkeypatch.setattr(RayWorkers, "_ask", lambda workers, state: None)
    for machines in ({"machine": 1}, dict[str, int]()):
        heard: list[str] = []
        workers = workers_without_ray(machines, heard.append, monkeypatch)
        for _ in range(3):
            assert workers.wait(0.0) == [] and not workers.has_room()
        assert len(heard) == 1 and "no engine has started" in heard[0] and "`ray status`" in heard[0]
    monkeypatch.setattr(ray_workers, "ALONE_S", 0.0)
    with pytest.raises(FourshotError, match=r"no machine with 1 GPU, or with 2 cores where there is no GPU, for 0 s"):
        workers.wait(0.0)

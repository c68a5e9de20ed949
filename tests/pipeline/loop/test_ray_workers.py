"""Engines over Ray: the rows are those of one engine alone, also where one of them leaves in the middle."""

from pathlib import Path

import pytest

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

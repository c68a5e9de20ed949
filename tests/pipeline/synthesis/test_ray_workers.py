"""Engines over Ray: the rows are those of one engine alone, also where one of them leaves in the middle."""

from pathlib import Path

import msgspec
import pytest

from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.synthesis.driver import Driver
from fourshot.pipeline.synthesis.ray_workers import RayWorkers
from fourshot.pipeline.synthesis.rounds import RoundSink
from fourshot.pipeline.synthesis.settings import AnnotateSettings, VarietySettings
from fourshot.pipeline.synthesis.units import UnitProgress, UnitResult
from fourshot.pipeline.synthesis.workers import Workers, open_workers
from fourshot.pipeline.work_folder import WorkFolder
from tests.pipeline.corpus.small_corpora import SHOTS, TASK, make, named, rows_of, settings
from tests.pipeline.synthesis.filling import InProcessWorker


def test_a_worker_that_leaves_costs_no_row_and_the_rows_are_those_of_one_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    wanted = settings(per_class=60)
    tasks = named("one", "two", "three")
    make(tmp_path / "alone", tasks, wanted)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # so many cores Ray has: two engines
    monkeypatch.setattr("fourshot.pipeline.synthesis.ray_workers.LOOK_S", 0.0)
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
    summary = make(tmp_path / "spread", tasks, wanted, ray="local", model="fake:delay_s=0.005")
    assert summary.rates.engine_starts >= 3, "nobody took the place of the one that left"
    assert killed and len(set(heard)) >= 2
    assert rows_of(tmp_path / "spread") == rows_of(tmp_path / "alone")
    assert not ray.is_initialized()


def test_rounds_of_runs_that_are_spread_are_those_of_one_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawing and reading of two run folders over two engines, with a calibration from the first round."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    batch = AnnotateSettings(annotator="icl", calibration="batch")
    contextual = msgspec.structs.replace(batch, calibration="contextual")
    wanted = {
        "batch": msgspec.structs.replace(settings(per_class=60, draws_per_round=40), annotate=batch),
        "contextual": msgspec.structs.replace(
            settings(per_class=50, draws_per_round=40), annotate=contextual, variety=VarietySettings(suppress=1.0)
        ),
    }
    engines: set[str] = set()
    wait = RayWorkers.wait

    def listen(workers: RayWorkers, timeout_s: float) -> list[UnitResult | UnitProgress]:
        results = wait(workers, timeout_s)
        engines.update(result.engine for result in results if isinstance(result, UnitResult))
        return results

    monkeypatch.setattr(RayWorkers, "wait", listen)

    def fill(name: str, workers: Workers, spread: bool) -> None:
        sinks = {}
        for kind, of_kind in wanted.items():
            folder = WorkFolder(tmp_path / name / kind)
            folder.path.mkdir(parents=True)
            sink = RoundSink(folder, TASK, SHOTS, of_kind, spread=spread)
            sinks[sink.key] = sink
        Driver(sinks, one_at_a_time=not spread).run(workers)
        workers.close()

    engine = EngineSettings(model="fake:delay_s=0.005")
    fill("alone", InProcessWorker(FakeEngine(engine)), spread=False)
    fill("spread", open_workers(engine, "local", tmp_path / "log.txt"), spread=True)
    assert len(engines) == 2
    for file in ("candidates.jsonl", "verdicts.jsonl", "annotator.json"):
        for kind in wanted:
            alone, spread = (tmp_path / name / kind / file for name in ("alone", "spread"))
            assert spread.read_bytes() == alone.read_bytes(), f"{kind}: {file}"
    reports = (tmp_path / "spread" / "batch" / "rounds.jsonl").read_text().splitlines()
    assert len(reports) > 1


def test_a_machine_that_cannot_open_its_engine_ends_no_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    model = f"fake:delay_s=0.005;first_fails={tmp_path / 'bad'}"
    summary = make(tmp_path / "spread", wanted=settings(per_class=60), ray="local", model=model)
    assert (tmp_path / "bad").exists(), "no engine was refused"
    assert {one.state for one in summary.classes} == {"finished"}


def test_machines_none_of_which_can_open_an_engine_end_it_with_their_reason(tmp_path: Path) -> None:
    with pytest.raises(FourshotError, match="this machine has no driver"):
        make(tmp_path, ray="local", model="fake:fails_on_opening=true")


def test_a_cluster_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        make(tmp_path, ray="127.0.0.1:1")

"""The measurements of corpora run, and say what was measured; what they measured lies in bench/results."""

from pathlib import Path
from typing import Any

import pytest

from fourshot.bench.core.results import FinishedPieces
from fourshot.bench.suites import corpus_kills, corpus_order, corpus_overhead, corpus_real, neardup
from fourshot.engine.core import EngineSettings
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.loop.units import TaskBrief
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task


def test_near_duplicates_are_found_among_texts_that_are_alike_by_chance() -> None:
    row = neardup.measure_size(5_000)
    assert row["changed_found"] >= 0.98 * row["changed"] > 100
    assert row["others_found"] < 5
    targets = {target.name: target for target in neardup.targets([row])}
    assert targets["changed texts found, largest"].met


def test_the_largest_number_of_texts_is_compared_with_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(_: object, size: int) -> dict[str, float]:
        counts = {"changed": 10, "changed_found": 10, "texts": size, "memory_bytes": 100 * size}
        return {**counts, "us_per_text": 1.0, "us_per_text_last_tenth": size / 1000}

    monkeypatch.setattr(neardup, "call_in_child", measured)
    result = neardup.measure(neardup.Options(sizes=(5_000, 1_000, 5_000)), FinishedPieces(None, {}))
    assert [row["texts"] for row in result["rows"]] == [1_000, 5_000]
    assert result["targets"][0].measured == 5.0


def test_the_rate_of_a_corpus_that_went_on_is_that_of_the_rows_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = {"rows": 5_100, "rows_twice": 0, "loaded_rows": {"sst2": 5_100}}
    calls = [{"seconds": 10.0, "rows": 100}]
    replaced: dict[str, Any] = {"make_corpus": (calls, {}), "inspect": corpus, "outcomes": []}
    for name, value in replaced.items():
        monkeypatch.setattr(corpus_real, name, lambda *_, value=value: value)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "README.md").write_text("card")
    options = corpus_real.Options(data=tmp_path, out=tmp_path / "real.json", tasks=("support_tickets",))
    monkeypatch.setattr(corpus_real, "load_task", lambda name, data: load_task(name))
    assert corpus_real.measure(options, FinishedPieces(None, {}))["rows_per_s"] == 10.0


def test_the_overhead_of_a_corpus_is_measured_on_all_its_rows(tmp_path: Path) -> None:
    options = corpus_overhead.Options(tasks=2, rows=2_000, format="parquet")
    row = corpus_overhead.measure_corpus(options, tmp_path / "corpus")
    assert (row["rows"], row["tasks"], row["format"]) == (2_000, 2, "parquet")
    assert row["us_per_row"] > 0 and row["driver_bytes"] > 10_000_000 and row["worker_bytes"] > 10_000_000
    assert {target.name for target in corpus_overhead.targets(row)} == {
        "overhead per row",
        "memory at the end over that after a fifth of the rows",
    }


def test_killed_again_and_again_a_corpus_ends_as_one_left_alone(tmp_path: Path) -> None:
    corpus_kills.make_small_corpus(tmp_path / "alone")
    killer = corpus_kills.Killer(tmp_path, seed=1)
    killer.run(5)
    faults = corpus_kills.check(killer.finished, corpus_kills.rows_of(tmp_path / "alone"))
    assert faults == {"lost": 0, "twice": 0, "different": 0}
    assert killer.kills["driver"] and killer.kills["engine"]


def test_the_memory_that_orders_are_compared_in_is_that_of_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[EngineSettings] = []

    def open_engine(settings: EngineSettings) -> FakeEngine:
        opened.append(settings)
        return FakeEngine(settings)

    monkeypatch.setattr(corpus_order, "open_engine", open_engine)
    task = load_task("support_tickets")
    brief = TaskBrief(key="one", task=task, shots=tuple(take_shots(task, 4, 0)), settings=PRESETS["corpus"])
    assert corpus_order.measure_order([brief], corpus_order.ORDERS[0], "fake", 48)["draws_per_s"] > 0
    assert (opened[0].kv_cache_bytes, opened[0].gpu_kv_cache_bytes) == (48 << 20, 48 << 20)

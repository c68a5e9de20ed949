"""The measurements of corpora run, and say what was measured; what they measured lies in bench/results."""

from pathlib import Path

from fourshot.bench.suites import corpus_kills, corpus_overhead, neardup


def test_near_duplicates_are_found_among_texts_that_are_alike_by_chance() -> None:
    row = neardup.measure_size(5_000)
    assert row["changed_found"] >= 0.98 * row["changed"] > 100
    assert row["others_found"] < 5
    targets = {target.name: target for target in neardup.targets([row])}
    assert targets["changed texts found, largest"].met


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

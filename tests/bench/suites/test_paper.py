"""The paper's tables and figures: what is planned, measured, taken from files, and not measured twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.bench.core.comparisons import read_comparison
from fourshot.bench.core.options import read_options
from fourshot.bench.suites.paper import scores as paper_scores
from fourshot.bench.suites.paper.measure import PaperMeasurement
from fourshot.bench.suites.paper.plan import (
    SETTINGS,
    Options,
    PlannedComparison,
    load_settings,
    planned_comparisons,
    resolved_plan,
)
from fourshot.bench.suites.paper.scores import PaperScore, mean_scores, missing_methods, shared_seeds
from fourshot.bench.suites.paper.timing import MERGED, Timing, count_texts, measure_timings
from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.loop.rounds import Round
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.task import DataSource, Label, Task
from tests.bench.suites.paper_doubles import ACCURACIES, FakeCompare, cells, comparison, times


def test_both_sizes_name_what_every_table_and_figure_needs() -> None:
    settings = load_settings()
    for plan in (settings.small, settings.full):
        shown = {shows for run in plan.runs for shows in run.shows}
        assert shown == {"Table 1", "the ablation", "figures 5 and 6", "figure 7", "figure 4"}
        needed = {row[0] for row in (*paper_scores.TABLE, *paper_scores.ABLATION)}
        assert needed <= {method for run in plan.runs for method in run.methods}
        folders = [planned.folder for planned in planned_comparisons(plan)]
        assert len(folders) == len(set(folders)), "two comparisons would share a folder"


def test_a_settings_file_with_faults_is_refused(tmp_path: Path) -> None:
    text = SETTINGS.read_text("utf-8")
    broken = tmp_path / "settings.toml"
    for old, new, fault in (
        ('"icl"', '"icq"', "icq"),
        ("seeds = 1", 'seeds = "one"', "seeds"),
        ("[full]", "[full", "no settings"),
    ):
        broken.write_text(text.replace(old, new), "utf-8")
        with pytest.raises(InputError, match=fault):
            load_settings(broken)
    with pytest.raises(InputError, match="--seeds 0"):
        read_options(Options, ["--seeds", "0"], "paper")
    with pytest.raises(InputError, match="no task snips"):
        resolved_plan(Options(tasks=("sst2", "snips")))


def test_only_what_no_result_has_is_missing() -> None:
    def missing(*methods: str, **settings: Any) -> tuple[str, ...]:
        planned = PlannedComparison(
            folder="f", task="trec", methods=methods, seeds=(0, 1), settings=RunSettings(**settings)
        )
        return missing_methods(planned, measured)

    measured = [*cells("trec", ("lora", "lora25"), (0, 1)), *cells("trec", ("icl",), (0,))]
    assert missing("lora", "icl", "zero_shot") == ("icl", "zero_shot"), "icl lacks the second draw"
    assert missing("lora", k=25) == (), "LoRA on 25 real texts was measured as lora25"
    assert missing("lora", k=10) == ("lora",)
    measured = [msgspec.structs.replace(score, test_limit=500) for score in measured]
    assert missing("lora", test_limit=500) == ()
    assert missing("lora", test_limit=1000) == ("lora",)
    assert missing("lora") == ("lora",)


def test_a_stopped_suite_goes_on_and_a_finished_one_measures_nothing(options_of: Callable[..., Options]) -> None:
    results: list[dict[str, Any]] = []
    first = FakeCompare(dies_at=3)
    with pytest.raises(KeyboardInterrupt):
        PaperMeasurement(options_of(), results.append, first, times).run()
    assert len(results[-1]["timings"]) == 16 and {cell.task for cell in results[-1]["cells"]} == {"sst2", "trec"}
    second = FakeCompare()
    result = PaperMeasurement(options_of(), results.append, second, times).run()
    assert [name for name, _ in second.made] == [
        "trec/real-k10-n50",
        "trec/real-k50-n50",
        "trec/synthetic-k4-n10",
        "trec/synthetic-k4-n21",
    ]
    third = FakeCompare()
    again = PaperMeasurement(options_of(), results.append, third, _no_times).run()
    assert third.made == [] and again["cells"] == result["cells"] and again["timings"] == result["timings"]


def _no_times(task: Task) -> list[Timing]:
    raise AssertionError("it was timed already")


def test_other_settings_are_measured_anew(options_of: Callable[..., Options], tmp_path: Path) -> None:
    PaperMeasurement(options_of(), lambda _: None, FakeCompare(), times).run()
    file = tmp_path / "runs" / "sst2" / "table-k4-n50" / "comparison.json"
    changed = json.loads(file.read_text())
    changed["settings"]["lora"]["train"]["rank"] = 16
    file.write_text(json.dumps(changed))
    again = FakeCompare()
    PaperMeasurement(options_of(), lambda _: None, again, times).run()
    assert [name for name, _ in again.made] == ["sst2/table-k4-n50"]


def test_results_that_exist_are_taken(options_of: Callable[..., Options], tmp_path: Path) -> None:
    known_files = []
    for task in ("sst2", "trec"):
        file = tmp_path / f"compare-{task}.json"
        file.write_bytes(msgspec.json.encode(comparison(task, tuple(ACCURACIES), (0, 1, 2))))
        known_files.append(file)
    few_texts_file = tmp_path / "few.json"  # was measured on too few test texts: gives way
    limited = RunSettings(test_limit=50, allow_short=True)
    few_texts_file.write_bytes(msgspec.json.encode(comparison("sst2", ("icl_filter",), (0,), limited)))
    double = FakeCompare()
    result = PaperMeasurement(options_of(known=(*known_files, few_texts_file)), lambda _: None, double, times).run()
    assert {cell.test_limit for cell in result["cells"]} == {0}
    assert double.made[:2] == [("sst2/table-k4-n50", ("icl_filter",)), ("trec/table-k4-n50", ("icl_filter",))]
    assert mean_scores(result["cells"])["trec", "lora", 4, 0].seeds == 3
    assert [source["name"] for source in result["sources"]][:2] == ["compare-sst2.json", "compare-trec.json"]


def test_results_of_another_model_are_refused(options_of: Callable[..., Options], tmp_path: Path) -> None:
    other_file = tmp_path / "other.json"
    other_file.write_bytes(
        msgspec.json.encode(msgspec.structs.replace(comparison("sst2", ("lora",)), model_name="vicuna"))
    )
    with pytest.raises(InputError, match="measured with vicuna"):
        PaperMeasurement(options_of(known=(other_file,)), lambda _: None, FakeCompare(), times).run()
    other_file.write_text("{}")
    with pytest.raises(InputError, match="not a result of `fourshot compare`"):
        read_comparison(other_file)


def test_points_of_one_curve_stand_on_the_same_draws() -> None:
    def cell(seed: int, real: int, accuracy: float) -> PaperScore:
        measured = cells("trec", ("lora",), (seed,))[0]
        return msgspec.structs.replace(measured, real_per_class=real, accuracy=accuracy)

    points = [cell(0, 4, 0.5), cell(1, 4, 0.9), cell(0, 10, 0.6)]
    keys = [("trec", "lora", 4, 0), ("trec", "lora", 10, 0)]
    assert shared_seeds(points, keys) == (0,)
    assert mean_scores(points, (0,))[keys[0]].accuracy == 0.5
    assert mean_scores(points)[keys[0]].accuracy == pytest.approx(0.7)
    assert keys[1] not in mean_scores(points, (0, 1)), "it lacks the second draw"


def test_targets_stand_on_whole_numbers_only(options_of: Callable[..., Options]) -> None:
    result = PaperMeasurement(options_of(), lambda _: None, FakeCompare(), times).run()
    measured = {target.name: target.measured for target in result["targets"]}
    assert measured["in context over LoRA, time of one text in transformers, least task"] == 3.0
    assert measured["in context over merged LoRA, time of one text in transformers, least task"] == 6.0
    assert measured["the default recipe above in context, mean"] == 30.0
    assert measured["the filter on above off, mean"] == 5.0
    assert all(target.met for target in result["targets"])
    without = [cell for cell in result["cells"] if (cell.task, cell.method) != ("sst2", "icl")]
    named = {target.name for target in paper_scores.paper_targets(without, (), ("sst2", "trec"))}
    assert named == {"the default recipe above LoRA on the shots, mean", "the filter on above off, mean"}


def test_a_difference_is_over_the_draws_of_both_methods() -> None:
    """A result of --from has three draws, and what this suite adds has one."""
    known = cells("sst2", ("fourshot", "lora"), (0, 1, 2))
    added = cells("sst2", ("unfiltered",), (0,))
    measured = {target.name: target.measured for target in paper_scores.paper_targets([*known, *added], (), ("sst2",))}
    assert measured["the filter on above off, mean"] == 5.0
    assert measured["the default recipe above LoRA on the shots, mean"] == 10.0
    other = cells("sst2", ("unfiltered",), (7,))
    names = {target.name for target in paper_scores.paper_targets([*known, *other], (), ("sst2",))}
    assert names == {"the default recipe above LoRA on the shots, mean"}, "no draw in common"


def test_texts_are_counted_up_to_the_last_finished_round(tmp_path: Path) -> None:
    task = Task(
        name="mood",
        instruction="Sort.",
        noun="text",
        labels=(Label(name="good"), Label(name="bad")),
        data=DataSource(folder=str(tmp_path / "data")),
    )
    (tmp_path / "data").mkdir()
    rows = [json.dumps({"text": f"the real film number {n}", "label": ("good", "bad")[n % 2]}) for n in range(8)]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "data" / "test.jsonl").write_text('{"text": "another one", "label": "bad"}\n')
    assert count_texts(task, tmp_path / "run", 0) is None
    folder = RunFolder(tmp_path / "run" / "seed0" / "fourshot")
    folder.path.mkdir(parents=True)
    candidates = [
        Candidate(
            id=str(n),
            text="a written film",
            label="good",
            round=0,
            prompt_hash="",
            shots=(),
            num_tokens=3,
            cumulative_logprob=0.0,
            finish_reason="stop",
        )
        for n in range(3)
    ]
    verdicts = [Verdict(candidate_id=str(n), kept=n == 0, reason="kept" if n == 0 else "surplus") for n in range(3)]
    finished = Round(number=0, num_candidates=2, kept={}, drawn={}, sample_s=0.0, filter_s=0.0, output_tokens=0)
    for name, lines in (("candidates", candidates), ("verdicts", verdicts), ("rounds", [finished])):
        (folder.path / f"{name}.jsonl").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    texts = count_texts(task, tmp_path / "run", 0)
    assert texts is not None and texts.num == {"real": 2, "written": 2, "kept": 1}
    assert texts.trigrams["written"][-1] == (2, 1.0), "the same text twice has one tri-gram"
    assert texts.words["kept"] == {"written": 1, "film": 1}


def test_every_method_is_timed_at_every_batch_size(tiny_model: str) -> None:
    prompts = [f"Text: number {n}\nLabel:" for n in range(3)]
    timings = measure_timings(tiny_model, "mood", prompts, [f"Text: good\nLabel: good\n{p}" for p in prompts], (1, 2))
    assert [(timing.method, timing.batch) for timing in timings] == [
        (method, batch) for method in ("zero_shot", "icl", "lora", MERGED) for batch in (1, 2)
    ]
    assert all(timing.s_per_text > 0 and timing.num_texts == 3 for timing in timings)
    assert timings[2].prompt_tokens > timings[0].prompt_tokens == timings[4].prompt_tokens

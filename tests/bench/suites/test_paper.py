"""The paper's tables and figures: what is planned, what is not measured twice, and what the page says."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.bench.core.comparisons import MeasuredComparison, read_comparison
from fourshot.bench.core.options import read_options
from fourshot.bench.core.page import write_page
from fourshot.bench.core.results import RESULTS, read_result
from fourshot.bench.core.targets import Target, targets_of
from fourshot.bench.suites import paper
from fourshot.bench.suites.paper import scores as paper_scores
from fourshot.bench.suites.paper.bases import base_options, base_results, measure_bases, runs_name
from fourshot.bench.suites.paper.measure import PaperMeasurement
from fourshot.bench.suites.paper.page import page as paper_page
from fourshot.bench.suites.paper.plan import (
    SETTINGS,
    Options,
    PlannedComparison,
    load_settings,
    planned_comparisons,
    resolved_plan,
)
from fourshot.bench.suites.paper.scores import PaperScore, mean_scores, missing_methods, scores_of, shared_seeds
from fourshot.bench.suites.paper.texts import count_texts
from fourshot.bench.suites.paper.timing import MERGED, Timing, TimingRequest, measure_timings
from fourshot.cli import main as cli
from fourshot.engine.errors import InputError
from fourshot.engine.models import resolve_model
from fourshot.pipeline.loop.rounds import Round
from fourshot.pipeline.report.data import method_row
from fourshot.pipeline.runs.compare import Comparison, SeedResult
from fourshot.pipeline.runs.methods import METHODS
from fourshot.pipeline.runs.run_folder import RunFolder
from fourshot.pipeline.scores import Scores
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.tasks.types import DataSource, Label, Task

ACCURACIES = {
    "zero_shot": 0.4,
    "icl": 0.5,
    "lora": 0.7,
    "paper": 0.6,
    "fourshot": 0.8,
    "lora25": 0.9,
    "unfiltered": 0.75,
}


def comparison(
    task: str,
    methods: Sequence[str],
    seeds: Sequence[int] = (0,),
    settings: RunSettings | None = None,
    model: str | None = None,
) -> Comparison:
    """What `compare` writes, less the work."""
    settings, resolved = settings or RunSettings(allow_short=True), resolve_model(model)
    results = [
        SeedResult(method=method, seed=seed, scores=scores(method, seed), real_examples=8, synthetic_examples=9)
        for method in methods
        for seed in seeds
    ]
    return Comparison(
        task=task,
        model_name=resolved.name,
        model_revision=resolved.revision,
        seeds=list(seeds),
        rows=[method_row(method, method, [scores(method, seed) for seed in seeds]) for method in methods],
        results=results,
        settings={
            method: msgspec.structs.replace(METHODS[method].settings(settings), seed=seeds[0]) for method in methods
        },
        versions={"python": "3.11"},
        commit="abc1234",
    )


def scores(method: str, seed: int) -> Scores:
    tokens = 500 if method == "icl" else 40
    accuracy = ACCURACIES.get(method, 0.5) + 0.02 * seed
    return Scores(
        n=100,
        accuracy=accuracy,
        macro_f1=0.5,
        ece=0.1,
        interval=(0.4, 0.9),
        seconds=2.0,
        prompt_tokens=100 * tokens,
        cached_tokens=0,
    )


def cells(task: str, methods: Sequence[str], seeds: Sequence[int]) -> list[PaperScore]:
    written = msgspec.json.encode(comparison(task, methods, seeds))
    return scores_of(msgspec.json.decode(written, type=MeasuredComparison), 0)


class FakeCompare:
    """A `compare` that measures nothing; ``dies_at`` is the call that is killed."""

    def __init__(self, dies_at: int = 0) -> None:
        self.made: list[tuple[str, tuple[str, ...]]] = []
        self.dies_at = dies_at

    def __call__(
        self,
        task: Task,
        model: str | None,
        settings: RunSettings,
        methods: Sequence[str],
        seeds: Sequence[int],
        folder: Path,
        *_: Any,
    ) -> None:
        self.made.append((f"{folder.parent.name}/{folder.name}", tuple(methods)))
        if len(self.made) == self.dies_at:
            raise KeyboardInterrupt
        RunFolder(folder).write("comparison.json", comparison(task.name, methods, seeds, settings, model))


def times(task: Task) -> list[Timing]:
    took = {"zero_shot": 0.05, "icl": 0.3, "lora": 0.1, MERGED: 0.05}
    return [
        Timing(task=task.name, method=method, batch=batch, num_texts=8, s_per_text=seconds, prompt_tokens=40)
        for method, seconds in took.items()
        for batch in (1, 16)
    ]


@pytest.fixture
def asked(tmp_path: Path, model: str) -> Callable[..., Options]:
    """The small size on two tasks, in folders of their own."""
    for task in ("sst2", "trec"):
        (tmp_path / "data" / task).mkdir(parents=True)
        for split in ("train", "test"):
            (tmp_path / "data" / task / f"{split}.jsonl").touch()

    def make(**more: Any) -> Options:
        places = {"data": tmp_path / "data", "runs": tmp_path / "runs"}
        return Options(**{"tasks": ("sst2", "trec"), **places, **more})

    return make


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


def test_a_stopped_suite_goes_on_and_a_finished_one_measures_nothing(asked: Callable[..., Options]) -> None:
    kept: list[dict[str, Any]] = []
    first = FakeCompare(dies_at=3)
    with pytest.raises(KeyboardInterrupt):
        PaperMeasurement(asked(), kept.append, first, times).run()
    assert len(kept[-1]["timings"]) == 16 and {cell.task for cell in kept[-1]["cells"]} == {"sst2", "trec"}
    second = FakeCompare()
    result = PaperMeasurement(asked(), kept.append, second, times).run()
    assert [name for name, _ in second.made] == [
        "trec/real-k10-n50",
        "trec/real-k50-n50",
        "trec/synthetic-k4-n10",
        "trec/synthetic-k4-n21",
    ]
    third = FakeCompare()
    again = PaperMeasurement(asked(), kept.append, third, _no_times).run()
    assert third.made == [] and again["cells"] == result["cells"] and again["timings"] == result["timings"]


def _no_times(task: Task) -> list[Timing]:
    raise AssertionError("it was timed already")


def test_other_settings_are_measured_anew(asked: Callable[..., Options], tmp_path: Path) -> None:
    PaperMeasurement(asked(), lambda _: None, FakeCompare(), times).run()
    file = tmp_path / "runs" / "sst2" / "table-k4-n50" / "comparison.json"
    changed = json.loads(file.read_text())
    changed["settings"]["lora"]["train"]["rank"] = 16
    file.write_text(json.dumps(changed))
    again = FakeCompare()
    PaperMeasurement(asked(), lambda _: None, again, times).run()
    assert [name for name, _ in again.made] == ["sst2/table-k4-n50"]


def test_results_that_exist_are_taken(asked: Callable[..., Options], tmp_path: Path) -> None:
    known = []
    for task in ("sst2", "trec"):
        file = tmp_path / f"compare-{task}.json"
        file.write_bytes(msgspec.json.encode(comparison(task, tuple(ACCURACIES), (0, 1, 2))))
        known.append(file)
    few = tmp_path / "few.json"  # was measured on too few test texts: gives way
    limited = RunSettings(test_limit=50, allow_short=True)
    few.write_bytes(msgspec.json.encode(comparison("sst2", ("icl_filter",), (0,), limited)))
    made = FakeCompare()
    result = PaperMeasurement(asked(known=(*known, few)), lambda _: None, made, times).run()
    assert {cell.test_limit for cell in result["cells"]} == {0}
    assert made.made[:2] == [("sst2/table-k4-n50", ("icl_filter",)), ("trec/table-k4-n50", ("icl_filter",))]
    assert mean_scores(result["cells"])["trec", "lora", 4, 0].seeds == 3
    assert [source["name"] for source in result["sources"]][:2] == ["compare-sst2.json", "compare-trec.json"]


def test_results_of_another_model_are_refused(asked: Callable[..., Options], tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(msgspec.json.encode(msgspec.structs.replace(comparison("sst2", ("lora",)), model_name="vicuna")))
    with pytest.raises(InputError, match="measured with vicuna"):
        PaperMeasurement(asked(known=(other,)), lambda _: None, FakeCompare(), times).run()
    other.write_text("{}")
    with pytest.raises(InputError, match="no result of `fourshot compare`"):
        read_comparison(other)


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


def test_targets_stand_on_whole_numbers_only(asked: Callable[..., Options]) -> None:
    result = PaperMeasurement(asked(), lambda _: None, FakeCompare(), times).run()
    measured = {target.name: target.measured for target in result["targets"]}
    assert measured["in context over LoRA, time of one text in transformers, least task"] == 3.0
    assert measured["in context over merged LoRA, time of one text in transformers, least task"] == 6.0
    assert measured["the default recipe above in context, mean"] == 30.0
    assert measured["the filter on above off, mean"] == 5.0
    assert all(target.met for target in result["targets"])
    without = [cell for cell in result["cells"] if (cell.task, cell.method) != ("sst2", "icl")]
    named = {target.name for target in paper_scores.paper_targets(without, (), ("sst2", "trec"))}
    assert named == {"the default recipe above LoRA on the shots, mean", "the filter on above off, mean"}


def in_a_file(options: Options, result: dict[str, Any]) -> Any:
    """``result`` as its file has it."""
    settings = {**paper.settings(options), "model": "tiny"}
    header = {"suite": "paper", "commit": "abc1234", "hardware": {}, "versions": {}, "settings": settings}
    return msgspec.to_builtins({**header, **result})


def test_the_page_says_what_was_not_measured(asked: Callable[..., Options], tmp_path: Path) -> None:
    options = asked(no_times=True)
    result = in_a_file(options, PaperMeasurement(options, lambda _: None, FakeCompare()).result())
    page = write_page(tmp_path / "empty.html", paper_page(result), result).read_text("utf-8")
    assert page.count("not measured") > 20 and "Figures 5 and 6" in page


def test_the_command_writes_what_every_suite_writes_and_a_page(
    asked: Callable[..., Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paper, "PaperMeasurement", partial(PaperMeasurement, compare=FakeCompare(), time_task=times))
    out, report = tmp_path / "result.json", tmp_path / "page.html"
    assert paper.command(asked(out=out, report=report)) == 0
    result = json.loads(out.read_bytes())
    assert (result["schema"], result["suite"]) == (1, "paper")
    assert {"commit", "hardware", "versions", "settings", "cells", "targets"} <= result.keys()
    assert all(target.keys() == {"name", "unit", "measured", "goal", "met"} for target in result["targets"])
    page = report.read_text("utf-8")
    assert "the filter on above off" in page and "LoRA on 25 real" in page and "<script" not in page
    assert "the prompt with examples takes 6.0 times as long" in page
    assert "the filter on above off, mean: target 0, measured 5 points (met)" in capsys.readouterr().out


def several(options: Options, kept: list[dict[str, Any]], compare: FakeCompare) -> dict[str, Any]:
    """The result of every base of ``options``, less the work."""
    return measure_bases(
        options, kept.append, lambda alone, on_step: PaperMeasurement(alone, on_step, compare, times).run()
    )


def test_several_bases_are_measured_one_after_another_and_each_goes_on_where_it_was_stopped(
    asked: Callable[..., Options], tiny_model: str
) -> None:
    kept: list[dict[str, Any]] = []
    options = asked(models=("embedded", tiny_model))
    first = FakeCompare(dies_at=7)  # the first comparison of the second base
    with pytest.raises(KeyboardInterrupt):
        several(options, kept, first)
    embedded, tiny = kept[-1]["bases"]
    assert embedded["cells"] and not tiny["cells"]
    second = FakeCompare()
    result = several(options, kept, second)
    assert len(second.made) == len(first.made) - 1 == 6, "what the first base has is not measured again"
    folders = sorted(folder.name for folder in options.runs.iterdir())
    assert folders == sorted(runs_name(resolve_model(name)) for name in (None, tiny_model))
    third = FakeCompare()
    assert several(options, kept, third)["bases"] == result["bases"]
    assert third.made == []
    alone = PaperMeasurement(asked(), lambda _: None, FakeCompare(), times).run()
    assert result["bases"][0]["cells"] == alone["cells"]
    names = [target.name for target in result["targets"]]
    assert f"{Path(tiny_model).name}: the filter on above off, mean" in names
    assert len(names) == 2 * len(alone["targets"])


def test_the_page_has_a_block_for_each_base(
    asked: Callable[..., Options], tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = asked(models=("embedded", tiny_model))
    file, report = tmp_path / "result.json", tmp_path / "page.html"
    file.write_bytes(msgspec.json.encode(in_a_file(options, several(options, [], FakeCompare()))))
    assert cli.main(["bench", "paper", "--draw", str(file), "--report", str(report)]) == 0
    page = report.read_text("utf-8")
    names = (resolve_model(None).name, Path(tiny_model).name)
    assert "The bases side by side" in page
    for name in names:
        assert f"{name}: Table 1: accuracy" in page and f"{name}: the filter on above off, mean" in page
    printed = paper.MEASUREMENT.markdown(json.loads(file.read_bytes()))
    assert all(f"**{name}**" in printed for name in names)
    assert printed.count("| fourshot | 80.0 | 80.0 | 80.0 |") == 2


def test_the_command_takes_several_bases(
    asked: Callable[..., Options], tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "PaperMeasurement", partial(PaperMeasurement, compare=FakeCompare(), time_task=times))
    out = tmp_path / "result.json"
    assert paper.command(asked(out=out, models=("embedded", tiny_model))) == 0
    result = json.loads(out.read_bytes())
    embedded, tiny = resolve_model(None), resolve_model(tiny_model)
    assert [base["model"] for base in result["bases"]] == [embedded.name, tiny.name]
    assert result["settings"]["model"] == f"{embedded.name} and {tiny.name}"
    assert result["settings"]["model_revision"] == f"{embedded.revision} and {tiny.revision}"


def test_results_that_exist_go_to_the_base_they_are_of(
    asked: Callable[..., Options], tiny_model: str, tmp_path: Path
) -> None:
    known = []
    for name, model in (("embedded", None), ("tiny", tiny_model)):
        known.append(tmp_path / f"{name}.json")
        known[-1].write_bytes(msgspec.json.encode(comparison("sst2", ("lora",), model=model)))
    of_each = list(base_options(asked(models=("embedded", tiny_model), known=tuple(known))).values())
    assert [options.known for options in of_each] == [(file,) for file in known]
    with pytest.raises(InputError, match=r"tiny.json was measured with .*Leave it out"):
        base_options(asked(models=("embedded",), known=tuple(known)))


def test_bases_that_are_named_twice_are_refused(asked: Callable[..., Options], tiny_model: str) -> None:
    with pytest.raises(InputError, match="names a base twice"):
        base_options(asked(models=("embedded", resolve_model(None).name)))
    with pytest.raises(InputError, match="cannot both be given"):
        base_options(asked(models=("embedded",), model=tiny_model))


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
    request = TimingRequest(
        model=tiny_model,
        task="mood",
        prompts=tuple(f"Text: number {n}\nLabel:" for n in range(3)),
        prompts_in_context=tuple(f"Text: good\nLabel: good\nText: number {n}\nLabel:" for n in range(3)),
        batches=(1, 2),
    )
    timings = measure_timings(request)
    assert [(timing.method, timing.batch) for timing in timings] == [
        (method, batch) for method in ("zero_shot", "icl", "lora", MERGED) for batch in (1, 2)
    ]
    assert all(timing.s_per_text > 0 and timing.num_texts == 3 for timing in timings)
    assert timings[2].prompt_tokens > timings[0].prompt_tokens == timings[4].prompt_tokens


def test_the_page_is_drawn_from_a_result_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: Callable[..., Options]
) -> None:
    file, page = tmp_path / "result.json", tmp_path / "page.html"
    result = PaperMeasurement(asked(no_times=True), lambda _: None, FakeCompare()).result()
    file.write_bytes(msgspec.json.encode(in_a_file(asked(), result)))
    assert cli.main(["bench", "paper", "--draw", str(file), "--report", str(page)]) == 0
    assert "Table 1" in page.read_text("utf-8")
    file.write_text('{"schema": 1}')
    assert cli.main(["bench", "paper", "--draw", str(file), "--report", str(page)]) == 2
    assert "no result of a benchmark" in capsys.readouterr().err
    assert cli.main(["bench", "paper"]) == 2
    assert "--out FILE.json is needed" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted(RESULTS.glob("paper-*.json")), ids=lambda file: file.stem)
def test_a_kept_result_and_its_page_say_the_same(file: Path, tmp_path: Path) -> None:
    result = read_result(file, "paper")
    page, tasks = file.with_suffix(".html").read_text("utf-8"), result["settings"]["tasks"]
    targets, bases = list[Target](), base_results(result)
    for title, base in bases.items():
        for (task, method, real, synthetic), mean in mean_scores(base.cells).items():
            if (method, real, synthetic) in paper_scores.TABLE and task in tasks:
                assert f"<td>{100 * mean.accuracy:.1f}" in page, f"{title}, {task}, {method} is not in the page"
        assert base.targets == paper_scores.paper_targets(base.cells, base.timings, tasks)
        targets += base.targets
    without_bases = [msgspec.structs.replace(t, name=t.name.rpartition(": ")[2]) for t in targets_of(result)]
    assert without_bases == targets
    drawn = write_page(tmp_path / "again.html", paper_page(result), result).read_text("utf-8")
    assert drawn.count("<tr") == page.count("<tr"), "draw the page again: `fourshot bench paper --draw`"

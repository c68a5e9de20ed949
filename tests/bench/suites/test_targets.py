"""What the suites are to reach, beside what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from fourshot.bench.core.closed_loop import CellMeasurement, CellRequests, RequestTimes
from fourshot.bench.core.load import LoadAnswer
from fourshot.bench.core.parts import Target, at_least, at_most, target_lines
from fourshot.bench.core.results import FinishedPieces
from fourshot.bench.suites import breakeven, training
from fourshot.bench.suites import filter as filter_bench
from fourshot.bench.suites.adapters import AdaptersSettings, cells, summarise
from fourshot.bench.suites.latency.http import _measurement
from fourshot.bench.suites.latency.plan import SATURATED, LatencySettings
from fourshot.bench.suites.latency.summary import instruction_targets, targets
from fourshot.bench.suites.serving import batch_targets
from fourshot.engine.errors import FourshotError, InputError


def measurement(seconds: float, cached: int = 0) -> CellMeasurement:
    """Two requests of 40 tokens each."""
    rows = tuple(RequestTimes(sent_s=0, begun_s=0, done_s=1, prompt_tokens=40, cached_tokens=cached) for _ in range(2))
    return CellMeasurement(rows=rows, seconds=seconds, prompt_tokens=80, cached_tokens=2 * cached)


def in_words(goals: list[Target]) -> list[str]:
    return [line.removeprefix("- ") for line in target_lines(goals)]


@pytest.mark.parametrize(("task", "cache_off"), [("sst2", 8), ("trec", 30), ("ag_news", 19)])
def test_each_task_has_a_target_against_each_state_of_the_cache(task: str, cache_off: float) -> None:
    row: dict[str, Any] = {
        "way": "lora",
        "task": task,
        "concurrency": "saturated",
        "icl_off": {"throughput": {"mean": 9.0}, "prompt_tokens": 6.0},
        "icl_warm": {"throughput": {"mean": 1.5}},
    }
    words = in_words(targets([row], LatencySettings(tasks=(task,), variants=("lora",))))
    name = f"LoRA, one adapter, {task}"
    met = "met" if cache_off == 8 else "missed"
    assert (
        f"{name}, saturated: throughput against in context, cache off: target {cache_off}, measured 9 times ({met})"
        in words
    )
    assert f"{name}, saturated: throughput against warm in context: target 1.6, measured 1.5 times (missed)" in words
    assert f"{name}, against warm in context, worst cell (saturated): target 1, measured 1.5 times (met)" in words


def test_the_instruction_stands_beside_the_bare_text_and_its_hits_in_the_cache() -> None:
    settings = LatencySettings(tasks=("sst2",))
    groups = {
        ("in-process", "lora", "sst2", float(SATURATED)): [measurement(1.0, cached=16)],
        ("in-process", "lora_bare", "sst2", float(SATURATED)): [measurement(0.8)],
    }
    assert in_words(instruction_targets(groups, settings)) == [
        "LoRA, one adapter, sst2, saturated: share of the bare text's throughput: target 0.9, measured 0.8 (missed)",
        "LoRA, one adapter, sst2, saturated: hit rate of the prefix cache: target 0.3, measured 0.4 (met)",
    ]


def test_every_size_of_a_batch_has_a_target() -> None:
    batches = [{"texts": texts, "adapters": 8, "ratio": ratio} for texts, ratio in ((8, 1.2), (32, 1.25), (128, 1.3))]
    assert in_words(batch_targets(batches)) == [
        "8 adapters in a batch of 8, against the base: target 1.25, measured 1.2 times (met)",
        "8 adapters in a batch of 32, against the base: target 1.25, measured 1.25 times (met)",
        "8 adapters in a batch of 128, against the base: target 1.25, measured 1.3 times (missed)",
    ]


def test_a_thousand_adapters_by_zipf_stand_beside_one() -> None:
    settings = AdaptersSettings(numbers=(1, 1024), repeats=2)
    pieces = {cell.name: measurement(2.5 if cell.number > 1 else 1.0) for cell in cells(settings)}
    assert in_words(summarise(settings, pieces)["targets"]) == [
        "1,024 adapters, Zipf 1.1: share of the throughput of one: target 0.5, measured 0.4 (missed)",
        "adapters, sst2: hit rate of the prefix cache, worst cell: target 0.3, measured 0 (missed)",
    ]
    few = AdaptersSettings(numbers=(1, 8), repeats=2, task="ag_news")
    assert summarise(few, {cell.name: measurement(1.0) for cell in cells(few)})["targets"] == []


def test_a_shape_like_qwen_2_has_a_target_of_its_own() -> None:
    numbers = {"accuracy": 0.5, "computed_tflops": 1.0, "useful_tflops": 1.0}
    runs = [{"trainer": "ours", "seconds": 1.0, **numbers}, {"trainer": "hf_trainer", "seconds": 4.5, **numbers}]
    speeds = [
        training.targets(runs, 1.0, goal)[0] for goal in (training.SPEED_GOAL, training.SPEED_GOALS["qwen2-135m"])
    ]
    assert [(speed.goal, speed.met) for speed in speeds] == [(5.0, False), (4.0, True)]


def test_a_target_is_judged_by_the_number_that_is_shown() -> None:
    assert at_least("rate", "", 0.79996, 0.8).line() == "rate: target 0.8, measured 0.8 (met)"
    assert not at_least("rate", "", 0.799, 0.8).met
    assert at_most("errors", "", 0.08004, 0.08).met and not at_most("errors", "", 0.081, 0.08).met


def test_a_load_that_nobody_answered_is_told_and_not_kept() -> None:
    refused = LoadAnswer(request=0, due_s=0.0, sent_s=0.0, done_s=1.0, status=503, answer='{"error": "starting"}')
    with pytest.raises(FourshotError, match="none of 2 requests was answered: 503"):
        _measurement([refused, refused])


def test_needed_tokens_have_what_all_prompts_begin_with_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words between the shots and a text, such as "Text:", are among these."""
    ids = [[7, 8, 9, 1, 5], [7, 8, 9, 4], [7, 8, 9, 1, 2, 3]]
    monkeypatch.setattr(filter_bench, "load_tokenizer", lambda model: None)
    monkeypatch.setattr(filter_bench, "encode_prompts", lambda tokenizer, prompts: ids)
    requests = CellRequests(requests=(), warmup=(), labels=(), concurrency=0)
    assert filter_bench.needed_tokens("", requests) == {"beginning": 3, "prompts": 15, "needed": 3 + 2 + 1 + 3}


def test_an_adapters_cost_is_not_set_against_the_savings_of_another_base(tmp_path: Path) -> None:
    latency = {"suite": "latency", "settings": {"model": "another", "tasks": []}, "dummy_weights": False}
    file = tmp_path / "latency.json"
    file.write_text(json.dumps(latency))
    options = breakeven.Options(data=tmp_path, latency=file, out=tmp_path / "out.json")
    with pytest.raises(InputError, match="is of another; adapters would be of SmolLM2-135M-Instruct"):
        breakeven.measure(options, FinishedPieces(None, {}))

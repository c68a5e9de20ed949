"""The latency suite: its cells, what it makes of the rows, and a real cell on the session's engine."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.bench.core.closed_loop import CellMeasurement, CellRequests, RequestTimes, SuiteBase, run_cell
from fourshot.bench.core.parts import write_page
from fourshot.bench.core.roofline import SHAPES
from fourshot.bench.core.workload import VARIANTS, PromptRequest, Workload, load_workload
from fourshot.bench.suites.breakeven import break_even as breakeven_rows
from fourshot.bench.suites.latency import SUITE, engine_specs, latency_settings
from fourshot.bench.suites.latency.plan import (
    SATURATED,
    LatencyCell,
    LatencySettings,
    Options,
    all_cells,
    http_cells,
    in_process_cells,
    open_cells,
)
from fourshot.bench.suites.latency.report import page
from fourshot.bench.suites.latency.summary import summarise
from fourshot.cli import main as cli
from fourshot.engine.core import Adapter
from fourshot.engine.errors import InputError
from fourshot.pipeline.task import Example, Label, Task

SETTINGS = LatencySettings(
    tasks=("sst2",), variants=("icl_off", "icl_warm", "lora", "floor"), http=False, requests={1: 4, SATURATED: 8}
)
TASK = Task(name="sst2", instruction="Good or bad?", noun="text", labels=(Label(name="good"), Label(name="bad")))
PROMPT_TOKENS = {"icl_off": 260, "icl_warm": 260, "lora": 40, "lora_many": 40, "zero_shot": 40, "floor": 2}


def small_workload(texts: int = 40) -> Workload:
    train_by_label = {
        label: tuple(Example(text=f"{label} {n}", label=label) for n in range(9)) for label in TASK.label_names
    }
    return Workload(
        task=TASK,
        texts=tuple(f"text {n}" for n in range(texts)),
        shots=tuple(pool[0] for pool in train_by_label.values()),
        train_by_label=train_by_label,
        k=2,
    )


def measured(seconds_each: Callable[[LatencyCell], float], settings: LatencySettings = SETTINGS) -> dict[str, Any]:
    """Rows as a run leaves them; a cell's requests are answered one after the other."""
    pieces: dict[str, Any] = {
        "shape": msgspec.to_builtins(SHAPES["tiny"]),
        "machine": {"flops": 1e12, "bytes_per_s": 5e10},
        "header": {},
    }
    for cell in in_process_cells(settings):
        each, tokens = seconds_each(cell), PROMPT_TOKENS[cell.variant]
        cached = 200 if cell.variant == "icl_warm" else 0
        rows = tuple(
            RequestTimes(
                sent_s=n * each, begun_s=n * each, done_s=(n + 1) * each, prompt_tokens=tokens, cached_tokens=cached
            )
            for n in range(cell.requests)
        )
        result = CellMeasurement(
            rows=rows,
            seconds=each * cell.requests,
            prompt_tokens=tokens * cell.requests,
            cached_tokens=cached * cell.requests,
        )
        pieces[cell.name] = msgspec.to_builtins(result)
    return pieces


def times(cell: LatencyCell) -> float:
    slow = 1 + 0.1 * cell.repeat  # a machine that gets slower for all
    return slow * {"icl_off": 0.6, "icl_warm": 0.12, "lora": 0.1, "floor": 0.001}[cell.variant]


def test_every_repeat_has_every_cell_once_in_an_order_of_its_own() -> None:
    cells = in_process_cells(LatencySettings())
    assert len({cell.name for cell in cells}) == len(cells)
    blocks = [[cell.group for cell in cells if cell.repeat == repeat] for repeat in range(3)]
    assert sorted(blocks[0]) == sorted(blocks[1])
    assert blocks[0] != blocks[1]
    assert {cell.variant for cell in cells} == set(VARIANTS)
    every = [*cells, *http_cells(LatencySettings()), *open_cells(LatencySettings())]
    assert len({cell.name for cell in every}) == len(every)


def test_all_ways_send_the_same_texts_and_no_text_twice() -> None:
    workload = small_workload()
    for name in ("lora", "icl_warm"):
        prompts = [request.prompt for request in workload.requests(VARIANTS[name], 5, 10)]
        assert [prompt.rsplit("Text: ", 1)[1] for prompt in prompts] == [f"text {n}\nLabel:" for n in range(5, 15)]
    with pytest.raises(InputError, match="40 different test texts"):
        workload.requests(VARIANTS["lora"], 35, 6)


def test_shots_are_the_same_or_others_for_each_request() -> None:
    workload = small_workload()
    fixed = {request.prompt.rsplit("Text: ", 1)[0] for request in workload.requests(VARIANTS["icl_warm"], 0, 8)}
    drawn = {request.prompt.rsplit("Text: ", 1)[0] for request in workload.requests(VARIANTS["icl_cold"], 0, 8)}
    assert (len(fixed), len(drawn)) == (1, 8)
    assert workload.requests(VARIANTS["lora_bare"], 0, 1)[0].prompt == "Text: text 0\nLabel:"
    assert [request.adapter for request in workload.requests(VARIANTS["lora_many"], 0, 4, many=3)] == [0, 1, 2, 0]


def test_the_summary_pairs_repeats_and_stands_beside_the_roof() -> None:
    summary = summarise(SETTINGS, measured(times))
    assert summary["missing"] == []
    rows = {(row["way"], row["concurrency"]): row for row in summary["against_icl"]}
    saturated = rows["lora", "saturated"]
    assert saturated["icl_off"]["throughput"]["mean"] == pytest.approx(6.0)
    assert saturated["icl_off"]["throughput"]["low"] == pytest.approx(6.0)  # the drift is in both
    assert saturated["icl_off"]["prompt_tokens"] == pytest.approx(6.5)
    assert 1 < saturated["icl_off"]["roof"] < 6.5
    assert saturated["icl_warm"]["throughput"]["mean"] == pytest.approx(1.2)
    missed = {target.name.partition(": ")[2] for target in summary["targets"] if not target.met}
    absolute = {"throughput against in context, cache off", "throughput against warm in context"}
    assert missed == {*absolute, "hit rate of the prefix cache"} and len(summary["targets"]) == 6
    cell = next(cell for cell in summary["cells"] if cell["way"] == "icl_warm")
    assert cell["hit_rate"] == pytest.approx(200 / 260)
    assert cell["tpot_ms"] is None


def test_cells_stand_in_the_order_of_ways_and_loads_not_in_that_of_their_measurement() -> None:
    summary = summarise(SETTINGS, measured(times))
    order = [(cell["way"], cell["load"]) for cell in summary["cells"]]
    assert order[:5] == [("icl_off", load) for load in (1, 4, 16, 64, "saturated")]
    assert [variant for variant, _ in order] == sorted((variant for variant, _ in order), key=SETTINGS.variants.index)


def test_p50_is_not_compared_where_other_numbers_come_at_once() -> None:
    rows = {row["concurrency"]: row for row in summarise(SETTINGS, measured(times))["against_icl"]}
    assert rows["saturated"]["icl_warm"]["p50"]["mean"] == pytest.approx(1.2), "8 requests and 8"
    assert "p50" not in rows["saturated"]["icl_off"], "8 requests and 24"
    assert rows[1]["icl_off"]["p50"]["mean"] == pytest.approx(6.0), "one at a time"


def test_what_the_limits_need_is_measured_without_being_asked_for() -> None:
    settings = LatencySettings(tasks=("sst2",), variants=("lora",))
    assert {cell.variant for cell in in_process_cells(settings)} == {"lora", "floor"}
    assert set(engine_specs(SuiteBase(path=""), settings)) == {"lora", "base"}


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"repeats": 0}, r">= 1 - at `\$.repeats`"),
        ({"requests": {1: -3}}, r">= 1 - at `\$.requests"),
        ({"requests": {-1: 3}}, r">= 0 - at `key` in `\$.requests`"),
        ({"requests": {}}, r"length >= 1 - at `\$.requests`"),
        ({"slow_requests": {"lora": {1: 0}}}, r">= 1 - at `\$.slow_requests"),
        ({"open_seconds": 0.0}, r"> 0.0 - at `\$.open_seconds`"),
        ({"http_seconds": {}}, r"length >= 1 - at `\$.http_seconds`"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(tmp_path: Path, wrong: dict[str, Any], place: str) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(wrong))
    with pytest.raises(InputError, match=place):
        latency_settings(Options(data=tmp_path, out=tmp_path / "out.json", settings=settings))


@pytest.mark.parametrize("key", ["http_ways", "slow_requests"])
def test_methods_that_cannot_be_measured_so_are_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "settings.json").write_text(
        json.dumps({key: {"zero_shots": {}} if key == "slow_requests" else ["floor"]})
    )
    with pytest.raises(InputError, match=f"unknown .* in {key}. Allowed are"):
        latency_settings(Options(data=tmp_path, out=tmp_path / "out.json", settings=tmp_path / "settings.json"))


def test_over_http_any_tasks_and_methods_are_summed_up() -> None:
    settings = msgspec.structs.replace(SETTINGS, tasks=("trec",), variants=("lora",), http=True)
    over_http = [cell for cell in all_cells(settings) if cell.route != "in-process"]
    assert {(cell.route, cell.task) for cell in over_http} == {("http", "trec")}, "sst2 has no open loop either"
    pieces = measured(times, settings)
    pieces |= {cell.name: pieces["in-process/lora/trec/c1/0"] for cell in over_http}
    ways = [cell["way"] for cell in summarise(settings, pieces)["cells"] if cell["route"] == "http"]
    assert list(dict.fromkeys(ways)) == ["lora", "icl_warm", "icl_off"]


def test_an_adapter_that_is_slower_misses_its_targets() -> None:
    slow = summarise(SETTINGS, measured(lambda cell: 0.5 if cell.variant == "lora" else times(cell)))
    assert not any(target.met for target in slow["targets"])


def test_a_run_that_was_cut_off_is_summed_up_as_far_as_it_came() -> None:
    pieces = measured(times)
    last = in_process_cells(SETTINGS)[-1].name
    del pieces[last]
    result = summarise(SETTINGS, pieces)
    assert result["missing"] == [last]
    assert result["cells"]


def test_many_adapters_are_set_beside_the_base_once_both_have_all_their_repeats() -> None:
    settings = msgspec.structs.replace(SETTINGS, variants=("zero_shot", "lora_many"), many_adapters=32)
    pieces = measured(lambda cell: 0.1 * (1 + cell.repeat), settings)
    (target,) = summarise(settings, pieces)["targets"]
    assert target.name.startswith("32 adapters") and target.measured == pytest.approx(1.0)
    (last,) = (name for name in pieces if name.startswith("in-process/zero_shot/sst2/c0/2"))
    del pieces[last]
    assert summarise(settings, pieces)["targets"] == []


def test_the_report_and_the_table_tell_every_cell(tmp_path: Path) -> None:
    result = {
        "suite": "latency",
        "dummy_weights": False,
        "commit": "abc",
        "hardware": {},
        "versions": {},
        "settings": {"tasks": ["sst2"], "model": "a model"},
        **summarise(SETTINGS, measured(times)),
    }
    result = msgspec.to_builtins(result)
    drawn = write_page(tmp_path / "page.html", page(result), result).read_text()
    assert "In context, cache warm" in drawn
    assert "<script" not in drawn
    without = {**result, "against_icl": [], "targets": []}
    assert "The gain" not in write_page(tmp_path / "page.html", page(without), without).read_text()
    table = SUITE.markdown(result)
    assert table.count("| in process |") == len(result["cells"])
    assert "n/a" in table


def test_break_even_is_the_price_over_the_gain_and_may_never_come() -> None:
    latency = {"cells": summarise(SETTINGS, measured(times))["cells"]}
    by_state = {row["state"]: row for row in breakeven_rows({"sst2": {"seconds": 110.0}}, latency)}
    saved = 1 / (1 / 0.66) - 0.11  # means over the repeats' rates
    assert by_state["icl_off"]["requests"] == pytest.approx(110 / saved, rel=0.02)
    assert by_state["icl_off"]["saved_prompt_tokens"] == 220
    slow = {
        "cells": summarise(SETTINGS, measured(lambda cell: 0.5 if cell.variant == "lora" else times(cell)))["cells"]
    }
    never = {row["state"]: row for row in breakeven_rows({"sst2": {"seconds": 110.0}}, slow)}
    assert never["icl_warm"]["requests"] is None
    filled = [{**cell, "way": "lora_filler"} for cell in latency["cells"] if cell["way"] == "lora"]
    as_made = breakeven_rows({"sst2": {"seconds": 110.0}}, {"cells": [*slow["cells"], *filled]})
    assert as_made == list(by_state.values()), "an adapter with filler is the one that runs make"


def test_a_real_cell_keeps_its_concurrency_and_counts_its_hits(
    vllm_engine: Any, adapters: tuple[Adapter, Adapter]
) -> None:
    prefix = "Sort each text: good or bad.\n\n" + "Text: a fine example of a text\nLabel: good\n\n" * 8
    requests = tuple(PromptRequest(prompt=f"{prefix}Text: number {n}\nLabel:", adapter=n % 2) for n in range(6))
    warmup = tuple(PromptRequest(prompt=f"{prefix}Text: warm {n}\nLabel:", adapter=n) for n in range(2))
    result = run_cell(
        vllm_engine,
        adapters,
        CellRequests(requests=requests, warmup=warmup, labels=("good", "bad"), concurrency=2),
    )
    assert len(result.rows) == 6
    ends = sorted([(row.sent_s, 1) for row in result.rows] + [(row.done_s, -1) for row in result.rows])
    live = [sum(step for _, step in ends[: n + 1]) for n in range(len(ends))]
    assert max(live) <= 2
    assert all(row.sent_s <= row.begun_s <= row.done_s for row in result.rows)
    assert all(row.cached_tokens >= 64 for row in result.rows)
    assert result.cached_tokens == sum(row.cached_tokens for row in result.rows)
    assert result.prompt_tokens == sum(row.prompt_tokens for row in result.rows)


def test_bad_settings_are_refused_with_what_is_allowed(tmp_path: Path, capsys: Any) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"repeat": 3}))
    words = ["bench", "latency", "--data", str(tmp_path), "--out", str(tmp_path / "out.json")]
    assert cli.main([*words, "--settings", str(settings)]) == 2
    assert "repeats" in capsys.readouterr().err
    assert cli.main([*words, "--shape", "vicuna-70b"]) == 2
    assert "vicuna-13b" in capsys.readouterr().err
    assert cli.main([*words, "--tasks", ""]) == 2
    assert "ag_news" in capsys.readouterr().err
    assert cli.main([*words, "--no-measure"]) == 2
    assert "no cell" in capsys.readouterr().err
    assert cli.main(words) == 2
    assert "no folder sst2, trec, ag_news" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.skipif("FOURSHOT_DATA" not in os.environ, reason="FOURSHOT_DATA names no folder of data sets")
def test_the_real_tasks_have_the_token_ratios_that_the_suite_is_about(vllm_engine: Any) -> None:
    for name, least in {"sst2": 5.0, "trec": 10.0, "ag_news": 10.0}.items():
        workload = load_workload(name, Path(os.environ["FOURSHOT_DATA"]), 4)
        tokens = {
            variant: sum(
                vllm_engine.count_tokens([request.prompt for request in workload.requests(VARIANTS[variant], 0, 50)])
            )
            for variant in ("lora", "icl_off")
        }
        assert tokens["icl_off"] / tokens["lora"] > least

"""The latency suite's table on the console, and its page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourshot.bench.core.old import target_lines
from fourshot.bench.core.old_page import Section, Table, provenance, targets, write_page
from fourshot.bench.core.plots import Bars, Curve, bar_plot, line_plot
from fourshot.bench.core.workload import WAYS

TITLES = {"sst2": "SST-2", "trec": "TREC", "ag_news": "AG News"}
ROUTES = {"in-process": "in process", "http": "over HTTP", "http-open": "over HTTP, Poisson arrivals"}


def console_table(result: Mapping[str, Any]) -> str:
    """Every cell, then the ratios and the targets, as Markdown."""
    lines = [
        "| route | task | way | load | requests/s | p50 ms | p95 | p99 | goodput/s | queue ms | model ms "
        "| prompt tokens | hit rate | TPOT |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in _cells(result)]
    lines += ["", ratio_table(result), "", *target_lines(result)]
    return "\n".join(lines)


def ratio_table(result: Mapping[str, Any]) -> str:
    """How much faster each way is than in context, as Markdown: for the console and docs/benchmarks.md."""
    head = _RATIO_HEAD
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | --- |" + " ---: |" * (len(head) - 3)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in _ratios(result))])


def write_report(path: Path, result: Mapping[str, Any]) -> Path:
    """The page beside the JSON."""
    tasks = result["settings"]["tasks"]
    sections = []
    if any("icl_off" in one for one in result["against_icl"]):
        plots = [plot for load in (1, "saturated") if (plot := _gain_plot(result, load)) is not None]
        sections.append(Section("The gain", [_gain_text(result), *plots]))
    sections.append(
        Section(
            "Beside what is possible",
            [
                "The ratio that the tokens alone would give, and the one that the roof of this machine allows: "
                "operations at the highest measured rate of matrix products, weights read once, and the measured cost "
                "of a request without a text.",
                Table(_RATIO_HEAD, _ratios(result)),
            ],
        )
    )
    for task in tasks:
        sections.append(Section(TITLES.get(task, task), [_throughput_plot(result, task), _latency_plot(result, task)]))
    sections += [
        Section(
            "Every cell",
            [Table(_CELL_HEAD, list(_cells(result)), note="TPOT: one token is answered, so there is none.")],
        )
    ]
    if result.get("targets"):
        sections.append(targets(result))
    sections.append(provenance(result, _machine(result)))
    lead = f"{result['settings']['model']}" + (", dummy weights: latency only" if result["dummy_weights"] else "")
    return write_page(path, "LoRA against in-context learning", sections, lead=lead, suite="latency")


_CELL_HEAD = (
    "route", "task", "way", "load", "requests/s", "p50 ms", "p95", "p99", "goodput/s", "queue ms", "model ms",
    "prompt tokens", "hit rate", "TPOT",
)  # fmt: skip
_RATIO_HEAD = (
    "task", "way", "concurrency", "limit, ms", "measured, ms", "tokens, times", "roof allows",
    "throughput against cache off", "p50 against cache off", "throughput against warm", "p50 against warm",
)  # fmt: skip


def _cells(result: Mapping[str, Any]) -> Sequence[tuple[str, ...]]:
    return [
        (
            ROUTES[cell["route"]],
            TITLES.get(cell["task"], cell["task"]),
            WAYS[cell["way"]].display_name,
            str(cell["load"]),
            _estimate(cell["requests_per_s"]),
            _estimate(cell["p50_ms"]),
            f"{cell['p95_ms']:.0f}",
            f"{cell['p99_ms']:.0f}",
            f"{cell['goodput_per_s']['mean']:.1f}",
            f"{cell['queue_ms']:.0f}",
            f"{cell['model_ms']:.0f}",
            f"{cell['prompt_tokens']:.0f}",
            f"{cell['hit_rate']:.2f}",
            "n/a",
        )
        for cell in result["cells"]
    ]


def _ratios(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for one in result["against_icl"]:
        off, warm = one.get("icl_off"), one.get("icl_warm")
        rows.append(
            (
                TITLES.get(one["task"], one["task"]),
                WAYS[one["way"]].display_name,
                str(one["concurrency"]),
                f"{one['limit_ms']:.1f}",
                f"{one['measured_ms']:.1f}",
                f"{off['prompt_tokens']:.1f}" if off else "-",
                f"{off['roof']:.1f}" if off else "-",
                _estimate(off["throughput"]) if off else "-",
                _estimate(off["p50"]) if off and "p50" in off else "-",
                _estimate(warm["throughput"], 2) if warm else "-",
                _estimate(warm["p50"], 2) if warm and "p50" in warm else "-",
            )
        )
    return rows


def _estimate(found: Mapping[str, Any], digits: int = 1) -> str:
    if found.get("low") is None:
        return f"{found['mean']:.{digits}f}"
    return f"{found['mean']:.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def _gain_text(result: Mapping[str, Any]) -> str:
    told = ", ".join(
        f"{one['icl_off']['throughput']['mean']:.1f} times on {TITLES.get(one['task'], one['task'])}"
        for one in result["against_icl"]
        if one["way"] == "lora" and one["concurrency"] == "saturated" and "icl_off" in one
    )
    return (
        f"As many requests per second as the same model in context without a prefix cache, times: {told}. A warm cache "
        "takes most of that away where few tasks share it; the suite of many adapters shows where it stops."
    )


def _gain_plot(result: Mapping[str, Any], load: int | str) -> Any:
    """Times faster than in context with the cache off, per task and way."""
    rows = [one for one in result["against_icl"] if one["concurrency"] == load and "icl_off" in one]
    if not rows:
        return None
    ways = list(dict.fromkeys(one["way"] for one in rows))
    tasks = list(dict.fromkeys(one["task"] for one in rows))
    key = "p50" if load == 1 else "throughput"
    found = {(one["way"], one["task"]): one["icl_off"][key] for one in rows}
    series = [
        Bars(
            WAYS[way].display_name,
            [found[way, task]["mean"] if (way, task) in found else None for task in tasks],
            [_bounds(found.get((way, task))) for task in tasks],
        )
        for way in ways
    ]
    what = "p50 of single requests" if load == 1 else "saturated throughput"
    return bar_plot(
        [TITLES.get(task, task) for task in tasks], series, value_name=f"{what}, times in context, cache off"
    )


def _bounds(found: Mapping[str, Any] | None) -> tuple[float, float] | None:
    return None if found is None or found["low"] is None else (max(0.0, found["low"]), found["high"])


def _curves(result: Mapping[str, Any], task: str, value: str) -> list[Curve]:
    by_way: dict[str, list[tuple[float, float]]] = {}
    for cell in result["cells"]:
        if (
            cell["route"] == "in-process"
            and cell["task"] == task
            and isinstance(cell["load"], int)
            and cell["way"] != "floor"
        ):
            by_way.setdefault(cell["way"], []).append((float(cell["load"]), cell[value]["mean"]))
    return [Curve(WAYS[way].display_name, sorted(points)) for way, points in by_way.items()]


def _throughput_plot(result: Mapping[str, Any], task: str) -> Any:
    return line_plot(
        _curves(result, task, "requests_per_s"),
        x_name="requests at a time",
        y_name="requests/s",
        log_x=True,
        log_y=True,
    )


def _latency_plot(result: Mapping[str, Any], task: str) -> Any:
    return line_plot(
        _curves(result, task, "p50_ms"), x_name="requests at a time", y_name="p50, ms", log_x=True, log_y=True
    )


def _machine(result: Mapping[str, Any]) -> str:
    before, roof = result["machine"]["before"], result["roof"]
    after = result["machine"]["after"] or before
    return (
        f"Highest rate of bf16 matrix products {before['flops'] / 1e12:.2f} TFLOP/s before and "
        f"{after['flops'] / 1e12:.2f} after; memory {before['bytes_per_s'] / 1e9:.0f} and "
        f"{after['bytes_per_s'] / 1e9:.0f} GB/s. A request without a text takes {roof['floor_alone_ms']:.1f} ms "
        f"alone and {roof['floor_saturated_ms']:.2f} ms in a full batch."
    )

"""The latency suite's tables for the console and docs/benchmarks.md, and its page."""

from collections.abc import Mapping, Sequence
from itertools import product
from statistics import fmean
from typing import Any

from fourshot.bench.core.parts import MISSING, Page, Part, Section, TablePart
from fourshot.bench.core.results import TITLES, task_title
from fourshot.bench.core.statistics import with_interval
from fourshot.bench.core.workload import VARIANTS
from fourshot.bench.suites.latency.plan import FLOOR
from fourshot.pipeline.report.figures import BarSeries, Curve, bar_plot, line_plot

ROUTES = {"in-process": "in process", "http": "over HTTP", "http-open": "over HTTP, Poisson arrivals"}


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return the tables of every cell and of the ratios."""
    return [cells(result), ratios(result)]


def cells(result: Mapping[str, Any]) -> TablePart:
    """Return a table of every cell."""
    columns: dict[str, Any] = {
        "route": lambda cell: ROUTES[cell["route"]],
        "task": lambda cell: task_title(cell["task"]),
        "method": lambda cell: VARIANTS[cell["way"]].display_name,
        "load": "{load}",
        "requests/s": lambda cell: with_interval(cell["requests_per_s"]),
        "p50 ms": lambda cell: with_interval(cell["p50_ms"]),
        "p95": "{p95_ms:.0f}",
        "p99": "{p99_ms:.0f}",
        "goodput/s": "{goodput_per_s[mean]:.1f}",
        "queue ms": "{queue_ms:.0f}",
        "model ms": "{model_ms:.0f}",
        "prompt tokens": "{prompt_tokens:.0f}",
        "hit rate": "{hit_rate:.2f}",
        "TPOT": "n/a",
    }
    note = "TPOT: one token is answered, so there is no time per further token."
    return TablePart.of(result["cells"], columns, note=note, left=4)


def ratios(result: Mapping[str, Any], loads: Sequence[int | str] = ()) -> TablePart:
    """Return a table of each variant's speed relative to in context, at ``loads``; () stands for all loads."""

    def against(state: str, measure: str, digits: int) -> Any:
        return lambda row: with_interval(row.get(state, {}).get(measure), digits)

    def off(measure: str) -> Any:
        return lambda row: f"{row['icl_off'][measure]:.1f}" if "icl_off" in row else MISSING

    speed = "speed relative to in-context, cache"
    columns: dict[str, Any] = {
        "task": lambda row: task_title(row["task"]),
        "method": lambda row: VARIANTS[row["way"]].display_name,
        "concurrency": "{concurrency}",
        "limit, ms": "{limit_ms:.1f}",
        "measured, ms": "{measured_ms:.1f}",
        "ratio of tokens": off("prompt_tokens"),
        "ratio at the roof": off("roof"),
        f"{speed} off: throughput": against("icl_off", "throughput", 1),
        f"{speed} off: p50": against("icl_off", "p50", 1),
        f"{speed} warm: throughput": against("icl_warm", "throughput", 2),
        f"{speed} warm: p50": against("icl_warm", "p50", 2),
    }
    rows = [row for row in result["against_icl"] if not loads or row["concurrency"] in loads]
    return TablePart.of(rows, columns, left=3)


def rates(result: Mapping[str, Any], loads: Sequence[int | str] = ()) -> TablePart:
    """Return a table of requests per second (lowest and highest repeat) of every in-process variant.

    The last column is the rate of ``lora`` relative to ``icl_off``. ``loads``: () stands for all.
    """
    measured = {
        (cell["task"], cell["load"], cell["way"]): cell["requests_per_s"]["values"]
        for cell in result["cells"]
        if cell["route"] == "in-process" and cell["way"] in VARIANTS and cell["way"] != FLOOR
    }
    variants = list(dict.fromkeys(variant for *_, variant in measured))

    def shown_range(values: Sequence[float] | None) -> str:
        return f"{min(values):.0f} to {max(values):.0f}" if values else MISSING

    def times(task: str, load: int | str) -> str:
        lora, in_context = (measured.get((task, load, variant)) for variant in ("lora", "icl_off"))
        return f"{fmean(lora) / fmean(in_context):.1f}" if lora and in_context else MISSING

    rows = [
        (
            task_title(task),
            load,
            *(shown_range(measured.get((task, load, variant))) for variant in variants),
            times(task, load),
        )
        for task, load in dict.fromkeys(key[:2] for key in measured)
        if not loads or load in loads
    ]
    names = [VARIANTS[variant].display_name for variant in variants]
    return TablePart(["task", "requests at a time", *names, "LoRA, one adapter, relative to cache off"], rows, left=2)


def gain(result: Mapping[str, Any]) -> TablePart:
    """Return the summary table: the speed of a served adapter relative to in-context learning, cache off and warm."""
    by_cell = {(row["way"], row["task"], row["concurrency"]): row for row in result["against_icl"]}
    measures = {"saturated": "throughput", 1: "p50"}
    rows = []
    for task, name in product(result["settings"]["tasks"], ("lora_filler", "lora", "lora_bare")):
        if all((name, task, load) in by_cell for load in measures):
            places = product(("icl_off", "icl_warm"), measures.items())
            means = [by_cell[name, task, load][state][measure]["mean"] for state, (load, measure) in places]
            rows.append((f"{TITLES[task]}: {VARIANTS[name].display_name}", *(f"{mean:.1f}" for mean in means)))
    loads = [f"cache {state}, {load}" for state in ("off", "warm") for load in ("saturated", "alone (p50)")]
    return TablePart(["speed relative to in-context", *loads], rows)


def page(result: Mapping[str, Any]) -> Page:
    """Return the page beside the JSON file."""
    sections = []
    if any("icl_off" in row for row in result["against_icl"]):
        plots = [plot for load in (1, "saturated") if (plot := _gain_plot(result, load)) is not None]
        sections.append(Section("The gain", [_gain_text(result), *plots]))
    about = (
        "The ratio that the tokens alone would give, and the one that the roof of this machine allows: operations at "
        "the highest measured rate of matrix products, weights read once, and the measured cost of a request without "
        "a text."
    )
    sections.append(Section("Beside what is possible", [about, ratios(result)]))
    for task in result["settings"]["tasks"]:
        plots = [
            _curves(result, task, *subject) for subject in (("requests_per_s", "requests/s"), ("p50_ms", "p50, ms"))
        ]
        sections.append(Section(task_title(task), plots))
    sections.append(Section("Every cell", [cells(result)]))
    lead = f"{result['settings']['model']}" + (", dummy weights: latency only" if result["dummy_weights"] else "")
    return Page("LoRA against in-context learning", sections, lead, [_machine(result)])


def _gain_text(result: Mapping[str, Any]) -> str:
    gains = ", ".join(
        f"{row['icl_off']['throughput']['mean']:.1f} times on {task_title(row['task'])}"
        for row in result["against_icl"]
        if row["way"] == "lora" and row["concurrency"] == "saturated" and "icl_off" in row
    )
    return (
        f"Requests per second relative to the same model in context without a prefix cache: {gains}. A warm cache "
        "takes most of that away where few tasks share it; the suite of many adapters shows where it stops."
    )


def _gain_plot(result: Mapping[str, Any], load: int | str) -> Any:
    """Plot the speed relative to in context with the cache off, per task and variant; None without such rows."""
    rows = [row for row in result["against_icl"] if row["concurrency"] == load and "icl_off" in row]
    if not rows:
        return None
    names, tasks = (list(dict.fromkeys(row[key] for row in rows)) for key in ("way", "task"))
    key = "p50" if load == 1 else "throughput"
    by_cell = {(row["way"], row["task"]): row["icl_off"][key] for row in rows}
    series = []
    for name in names:
        of_tasks = [by_cell.get((name, task)) for task in tasks]
        bounds = [
            (max(0.0, estimate["low"]), estimate["high"]) if estimate and estimate["low"] is not None else None
            for estimate in of_tasks
        ]
        series.append(
            BarSeries(VARIANTS[name].display_name, [estimate and estimate["mean"] for estimate in of_tasks], bounds)
        )
    measure = "p50 of single requests" if load == 1 else "saturated throughput"
    titles = [task_title(task) for task in tasks]
    return bar_plot(titles, series, value_name=f"{measure} relative to in-context, cache off")


def _curves(result: Mapping[str, Any], task: str, value: str, y_name: str) -> Any:
    points: dict[str, list[tuple[float, float]]] = {}
    for cell in result["cells"]:
        is_loop = cell["route"] == "in-process" and isinstance(cell["load"], int) and cell["way"] != "floor"
        if is_loop and cell["task"] == task:
            points.setdefault(cell["way"], []).append((float(cell["load"]), cell[value]["mean"]))
    curves = [Curve(VARIANTS[name].display_name, sorted(cell_points)) for name, cell_points in points.items()]
    return line_plot(curves, x_name="requests at a time", y_name=y_name, log_x=True, log_y=True)


def _machine(result: Mapping[str, Any]) -> str:
    before, roof = result["machine"]["before"], result["roof"]
    after = result["machine"]["after"] or before
    return (
        f"Highest rate of bf16 matrix products {before['flops'] / 1e12:.2f} TFLOP/s before and "
        f"{after['flops'] / 1e12:.2f} after; memory {before['bytes_per_s'] / 1e9:.0f} and "
        f"{after['bytes_per_s'] / 1e9:.0f} GB/s. A request without a text takes {roof['floor_alone_ms']:.1f} ms "
        f"alone and {roof['floor_saturated_ms']:.2f} ms in a full batch."
    )

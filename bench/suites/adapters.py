"""How many tasks one base can serve: 1, 2, 4 ... 1,024 adapters, against as many tasks in context, in equal memory.

    fourshot bench adapters --data FOLDER --out FILE.json      also writes FILE.rows.jsonl and FILE.html

Every adapter is a separate file with different weights. Every task in context has different examples. The tasks of
requests are sampled, uniformly or by Zipf's law. Adapters are in a slot, in memory or on disk, and examples may be in
the prefix cache. Before each cell, enough unmeasured requests are sent to fill the memory and the cache.
"""

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.closed_loop import CellMeasurement, CellRequests, EngineSpec, engines, repeated
from fourshot.bench.core.options import Model, Out, Positive, TaskFolders
from fourshot.bench.core.parts import MISSING, Page, Part, Section, TablePart, Target, at_least
from fourshot.bench.core.results import FinishedPieces, path_beside, show_progress
from fourshot.bench.core.statistics import ratio, with_interval
from fourshot.bench.core.suite import Suite
from fourshot.bench.core.workload import PromptRequest, Workload, load_workload
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.core import EngineSettings
from fourshot.pipeline.report.figures import Curve, line_plot

KINDS = ("adapters", "in context")
MANY_ADAPTERS, MANY_GOAL = 1024, 0.5  # goal under Zipf's law, as a share of one adapter's throughput
HIT_RATE_GOALS = {"sst2": 0.3, "trec": 0.6}  # share of prompt tokens served from the prefix cache
MORE_WARMUP = 16  # requests to sampled tasks, after one request to every task


class AdaptersSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the suite."""

    task: str = "sst2"
    k: int = 4
    numbers: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    zipf: tuple[float, ...] = (0.0, 1.1)  # exponents of Zipf's law; 0: uniform
    slots: int = 8  # adapters in one batch
    memory_adapters: int = 32  # adapters kept in memory
    kv_cache_mib: int = 512  # memory for the keys and values of cached examples
    concurrency: int = 16
    requests: int = 96
    most_warmup: int = 96  # the most requests to one task each; more tasks fit neither in memory nor in the cache
    repeats: int = 3
    seed: int = 0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: TaskFolders
    out: Out
    model: Model = None
    most: Annotated[Positive, "adapters at most"] = 1024
    repeats: Annotated[Positive, "of every cell"] = 3
    task: Annotated[str, "whose texts and examples are sent"] = "sst2"
    kv_cache_mib: Annotated[Positive, "memory for cached examples"] = 512
    scratch: Annotated[Path | None, "where the adapters are put, 5 GB with the embedded model"] = None

    @property
    def settings(self) -> AdaptersSettings:
        numbers = tuple(number for number in AdaptersSettings().numbers if number <= self.most)
        return AdaptersSettings(numbers=numbers, repeats=self.repeats, task=self.task, kv_cache_mib=self.kv_cache_mib)


class NumberCell(msgspec.Struct, frozen=True, kw_only=True):
    """One repeat of a cell: a number of adapters or of tasks in context, at one spread of the requests."""

    kind: str  # of KINDS
    number: int
    zipf: float
    repeat: int

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.number}/{self.zipf:g}/{self.repeat}"


def cells(settings: AdaptersSettings) -> list[NumberCell]:
    """Return all cells, repeat by repeat, each repeat in a different random order."""
    planned = []
    for repeat in range(settings.repeats):
        block = [
            NumberCell(kind=kind, number=number, zipf=zipf, repeat=repeat)
            for kind in KINDS
            for number in settings.numbers
            for zipf in (settings.zipf if number > 1 else settings.zipf[:1])
        ]
        random.Random(f"{settings.seed}/{repeat}").shuffle(block)
        planned += block
    return planned


def cell_requests(cell: NumberCell, workload: Workload, settings: AdaptersSettings) -> CellRequests:
    """Return the requests of a cell, each with a different text, and warm-up requests that fill memory and cache."""
    draw = random.Random(f"{settings.seed}/{cell.name}")
    weights = [rank**-cell.zipf for rank in range(1, cell.number + 1)]
    # Every task once, to load what fits, and then sampled tasks.
    warm = [*range(min(cell.number, settings.most_warmup)), *draw.choices(range(cell.number), weights, k=MORE_WARMUP)]
    requested_tasks = draw.choices(range(cell.number), weights, k=settings.requests)
    texts = list(workload.texts)
    draw.shuffle(texts)

    def request(task: int, text: str) -> PromptRequest:
        if cell.kind == "adapters":
            return PromptRequest(prompt=workload.prompt(text), adapter=task)
        return PromptRequest(prompt=workload.prompt(text, workload.drawn_shots(task)))

    return CellRequests(
        requests=tuple(request(task, text) for task, text in zip(requested_tasks, texts, strict=False)),
        warmup=tuple(request(task, text) for task, text in zip(warm, reversed(texts), strict=False)),
        labels=workload.task.label_words,
        concurrency=settings.concurrency,
    )


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Measure the cells that are not ``done``. Return the summary of all cells."""
    from fourshot.serving.testing.adapters import make_adapter, task_of

    settings = options.settings
    model = resolve_model(options.model)
    workload = load_workload(settings.task, options.data, settings.k, model.path)
    needed = settings.requests + MORE_WARMUP  # plus one per adapter, up to `most_warmup`
    fewer = f"or measure fewer adapters: --most {len(workload.texts) - needed}" if len(workload.texts) > needed else ""
    workload.check_texts(needed + min(max(settings.numbers), settings.most_warmup), fewer)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        if any(cell.name not in done.pieces for cell in cells(settings)):
            show_progress(f"{max(settings.numbers)} adapters of random weights")
            folders = tuple(
                str(make_adapter(Path(folder), task_of(f"random-{seed}"), seed=seed, base=model))
                for seed in range(max(settings.numbers))
            )
            kv_bytes = settings.kv_cache_mib << 20
            plain = EngineSettings(
                model=model.path, kv_cache_bytes=kv_bytes, gpu_kv_cache_bytes=kv_bytes, compile=False
            )
            adapted = msgspec.structs.replace(plain, max_loras=settings.slots, memory_loras=settings.memory_adapters)
            specs = {KINDS[0]: EngineSpec(settings=adapted, adapters=folders), KINDS[1]: EngineSpec(settings=plain)}

            with engines(specs, path_beside(options.out, ".log")) as running:

                def ask(cell: NumberCell) -> CellMeasurement:
                    return running[cell.kind].ask(cell_requests(cell, workload, settings))

                for kind in KINDS:  # compiles kernels
                    ask(NumberCell(kind=kind, number=1, zipf=0.0, repeat=-1))
                done.add_cells(cells(settings), ask)
    assert done.path
    return {**summarise(settings, done.pieces), "rows": done.path.name}


def summarise(settings: AdaptersSettings, pieces: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row per kind, number and spread (as ``cells``), and the targets."""
    groups: dict[tuple[str, int, float], list[CellMeasurement]] = {}
    for cell in sorted(cells(settings), key=lambda cell: cell.repeat):
        measured = msgspec.convert(pieces[cell.name], CellMeasurement)
        groups.setdefault((cell.kind, cell.number, cell.zipf), []).append(measured)
    return {
        "cells": [_numbers(*group, repeats) for group, repeats in sorted(groups.items())],
        "targets": targets(settings, groups),
    }


def targets(settings: AdaptersSettings, groups: Mapping[tuple[str, int, float], list[CellMeasurement]]) -> list[Target]:
    """Return targets for the throughput of many adapters under Zipf's law, and for the hit rate of adapters."""
    goals = []
    alone = groups.get((KINDS[0], 1, settings.zipf[0]))
    for zipf in filter(None, settings.zipf):
        if alone and (many := groups.get((KINDS[0], MANY_ADAPTERS, zipf))):
            rates = [[measured.rate for measured in repeats] for repeats in (many, alone)]
            name = f"{MANY_ADAPTERS:,} adapters, Zipf {zipf:g}: share of the throughput of one"
            goals.append(at_least(name, "", ratio(*rates).mean, MANY_GOAL))
    hit_rates = [
        sum(measured.cached_tokens for measured in repeats) / sum(measured.prompt_tokens for measured in repeats)
        for (kind, _, _), repeats in groups.items()
        if kind == KINDS[0]
    ]
    if hit_rates and settings.task in HIT_RATE_GOALS:
        name = f"adapters, {settings.task}: hit rate of the prefix cache, worst cell"
        goals.append(at_least(name, "", min(hit_rates), HIT_RATE_GOALS[settings.task]))
    return goals


def _numbers(kind: str, number: int, zipf: float, repeats: Sequence[CellMeasurement]) -> dict[str, Any]:
    loads: dict[str, list[tuple[int, float]]] = {}  # kind of load -> (uses, seconds) of each repeat
    for measured in repeats:
        for name, load in measured.adapter_loads.items():
            loads.setdefault(name, []).append(load)
    sums = {name: [sum(column) for column in zip(*of_repeats, strict=True)] for name, of_repeats in loads.items()}
    return {
        "kind": kind,
        "number": number,
        "spread": f"Zipf {zipf:g}" if zipf else "uniform",
        **repeated(repeats),
        "adapter_loads": {
            name: {"uses": uses, "ms_each": 1000 * seconds / uses if uses else None}
            for name, (uses, seconds) in sums.items()
        },
    }


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return the conditions of the measurement, and a table of every cell."""
    settings = result["settings"]

    def fetches(cell: Mapping[str, Any], source: str) -> Mapping[str, Any]:
        return cell["adapter_loads"].get(source) or {}

    about = (
        f"{settings['slots']} adapters in slots, {settings['memory_adapters']} in memory; {settings['kv_cache_mib']} "
        f"MiB for cached examples; {settings['concurrency']} requests at a time."
    )
    columns: dict[str, Any] = {
        "kind": "{kind}",
        "tasks": "{number:,}",
        "spread": "{spread}",
        "requests/s": lambda cell: with_interval(cell["requests_per_s"]),
        "p50 ms": lambda cell: with_interval(cell["p50_ms"]),
        "p99 ms": "{p99_ms:.0f}",
        "hit rate": "{hit_rate:.2f}",
        "fetched: disk": lambda cell: fetches(cell, "cold").get("uses", MISSING),
        "memory": lambda cell: fetches(cell, "memory").get("uses", MISSING),
        "ms per fetch from disk": lambda cell: f"{ms:.1f}" if (ms := fetches(cell, "cold").get("ms_each")) else MISSING,
    }
    return [about, TablePart.of(result["cells"], columns)]


def page(result: Mapping[str, Any]) -> Page:
    """Return the page beside the JSON file."""
    about, table = report(result)
    sections = [
        Section("Throughput", [about, _plot(result, "requests_per_s", "requests/s")]),
        Section("Latency", [_plot(result, "p99_ms", "p99, ms")]),
        Section("Hits in the prefix cache", [_plot(result, "hit_rate", "share of prompt tokens")]),
        Section("Every cell", [table]),
    ]
    return Page("Many tasks on one base", sections, str(result["settings"]["model"]))


def _plot(result: Mapping[str, Any], value: str, name: str) -> Any:
    curves: dict[str, list[tuple[float, float]]] = {}
    for cell in result["cells"]:
        number = cell[value]["mean"] if isinstance(cell[value], Mapping) else cell[value]
        spreads = ("uniform", "Zipf 1.1") if cell["number"] == 1 else (cell["spread"],)
        for spread in spreads:
            curves.setdefault(f"{cell['kind']}, {spread}", []).append((float(cell["number"]), number))
    lines = [Curve(label, sorted(points)) for label, points in curves.items()]
    return line_plot(lines, x_name="tasks", y_name=name, log_x=True)


SUITE = Suite(
    options=Options,
    settings=lambda options: dict(msgspec.to_builtins(options.settings)),
    measure=measure,
    report=report,
    page=page,
)

"""How many tasks one base can serve: 1, 2, 4 ... 1,024 adapters, beside as many tasks in context, in the same memory.

    fourshot bench adapters --data FOLDER --out FILE.json      also writes FILE.rows.jsonl and FILE.html

Every adapter is a file of its own with weights of its own. Every task in context has examples of its own. Requests come
by turns at random, each task as likely as any other or by Zipf's law. Adapters are in a slot, in memory, or on disk;
examples are in the prefix cache or are not. Each cell is warmed with as many requests as fill what it can hold.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from fourshot.bench.core.driver import CellOrder, CellResult
from fourshot.bench.core.engine_process import EngineOrder
from fourshot.bench.core.load import percentile
from fourshot.bench.core.old import Rows, check_data, check_out, header, positive, tell, write_json
from fourshot.bench.core.statistics import estimate
from fourshot.bench.core.workload import Material, Request, material
from fourshot.bench.suites.adapters_report import console_table, write_report
from fourshot.bench.suites.latency import Base, engines
from fourshot.engine.core import EngineSettings
from fourshot.engine.models import resolve_model
from fourshot.pipeline.synthesis.prompts import classification_prompt

SCHEMA = 1
KINDS = ("adapters", "in context")


class AdaptersSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One home for what can be set."""

    task: str = "sst2"
    k: int = 4
    numbers: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    zipf: tuple[float, ...] = (0.0, 1.1)  # 0: each as likely as any other
    slots: int = 8  # adapters in one batch
    memory_adapters: int = 32  # adapters kept in memory beside those
    kv_cache_mib: int = 512  # what examples are cached in
    concurrency: int = 16
    requests: int = 96
    most_warmup: int = 96  # requests; more tasks than that fit neither in memory nor in the cache
    repeats: int = 3
    seed: int = 0


class NumberCell(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to measure, once."""

    kind: str  # of KINDS
    number: int
    zipf: float
    repeat: int

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.number}/{self.zipf:g}/{self.repeat}"


def cells(settings: AdaptersSettings) -> list[NumberCell]:
    """Each repeat in an order of its own."""
    found = []
    for repeat in range(settings.repeats):
        block = [
            NumberCell(kind=kind, number=number, zipf=zipf, repeat=repeat)
            for kind in KINDS
            for number in settings.numbers
            for zipf in (settings.zipf if number > 1 else settings.zipf[:1])
        ]
        random.Random(f"{settings.seed}/{repeat}").shuffle(block)
        found += block
    return found


def cell_order(cell: NumberCell, stuff: Material, settings: AdaptersSettings) -> CellOrder:
    """Requests of a cell, and as many before as fill memory and cache, each with a text of its own."""
    draw = random.Random(f"{settings.seed}/{cell.name}")
    weights = [rank**-cell.zipf for rank in range(1, cell.number + 1)]
    # Every task once, so that what fits is there, and then as it comes.
    warm = [*range(min(cell.number, settings.most_warmup)), *draw.choices(range(cell.number), weights, k=16)]
    wanted = draw.choices(range(cell.number), weights, k=settings.requests)
    texts = list(stuff.texts)
    draw.shuffle(texts)

    def request(task: int, text: str) -> Request:
        if cell.kind == "adapters":
            return Request(prompt=classification_prompt(stuff.task, text), adapter=task)
        return Request(prompt=classification_prompt(stuff.task, text, stuff.drawn_shots(task)))

    return CellOrder(
        requests=tuple(request(task, text) for task, text in zip(wanted, texts, strict=False)),
        warmup=tuple(request(task, text) for task, text in zip(warm, reversed(texts), strict=False)),
        labels=stuff.task.label_words,
        concurrency=settings.concurrency,
    )


def measure(base: Base, settings: AdaptersSettings, stuff: Material, rows: Rows, log: Path) -> None:
    """Every cell that ``rows`` does not have yet."""
    wanted = [cell for cell in cells(settings) if cell.name not in rows.found]
    plain = EngineSettings(
        model=base.path,
        kv_cache_bytes=settings.kv_cache_mib << 20,
        gpu_kv_cache_bytes=settings.kv_cache_mib << 20,
        load_format=base.load_format,
        compile=False,
    )
    adapted = msgspec.structs.replace(plain, max_loras=settings.slots, memory_loras=settings.memory_adapters)
    orders = {
        "adapters": EngineOrder(settings=adapted, adapters=base.adapters),
        "in context": EngineOrder(settings=plain),
    }
    if not wanted:
        return
    with engines(orders, log) as running:
        first = NumberCell(kind="adapters", number=1, zipf=0.0, repeat=-1)
        for kind in KINDS:
            running[kind].run(cell_order(msgspec.structs.replace(first, kind=kind), stuff, settings))
        for count, cell in enumerate(wanted, start=1):
            result = running[cell.kind].run(cell_order(cell, stuff, settings))
            rows.add(cell.name, msgspec.to_builtins(result))
            tell(f"{count}/{len(wanted)}  {cell.name}: {len(result.rows) / result.seconds:.1f} requests/s")


def summarise(settings: AdaptersSettings, rows: Rows) -> dict[str, Any]:
    """A row per kind, number and spread."""
    found: dict[tuple[str, int, float], list[CellResult]] = {}
    for cell in sorted(cells(settings), key=lambda one: one.repeat):
        result = msgspec.convert(rows.found[cell.name], CellResult)
        found.setdefault((cell.kind, cell.number, cell.zipf), []).append(result)
    return {"cells": [_numbers(kind, number, zipf, results) for (kind, number, zipf), results in sorted(found.items())]}


def _numbers(kind: str, number: int, zipf: float, results: Sequence[CellResult]) -> dict[str, Any]:
    rates = [len(one.rows) / one.seconds for one in results]
    medians = [median(1000 * row.latency_s for row in one.rows) for one in results]
    pooled = [1000 * row.latency_s for one in results for row in one.rows]
    loads: dict[str, list[float]] = {}
    for one in results:
        for name, (uses, seconds) in one.adapter_loads.items():
            pair = loads.setdefault(name, [0, 0.0])
            pair[0] += uses
            pair[1] += seconds
    return {
        "kind": kind,
        "number": number,
        "spread": f"Zipf {zipf:g}" if zipf else "uniform",
        "requests_per_s": {**msgspec.to_builtins(estimate(rates)), "values": rates},
        "p50_ms": {**msgspec.to_builtins(estimate(medians)), "values": medians},
        "yardstick_s": [one.yardstick_s for one in results],
        "p99_ms": percentile(pooled, 0.99),
        "hit_rate": sum(one.cached_tokens for one in results) / sum(one.prompt_tokens for one in results),
        "adapter_loads": {
            name: {"uses": uses, "ms_each": 1000 * seconds / uses if uses else None}
            for name, (uses, seconds) in loads.items()
        },
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is missing, and write everything."""
    from fourshot.serving.testing.adapters import make_adapter, task_of

    settings = AdaptersSettings()
    check_out(options.out)
    if options.most:
        settings = msgspec.structs.replace(settings, numbers=tuple(n for n in settings.numbers if n <= options.most))
    given = {"repeats": options.repeats, "task": options.task, "kv_cache_mib": options.kv_cache_mib}
    settings = msgspec.structs.replace(settings, **{name: value for name, value in given.items() if value})
    check_data(options.data, [settings.task])
    stuff = material(settings.task, options.data, settings.k)
    rows_path = options.out.with_suffix(".rows.jsonl")
    rows = Rows(rows_path, {**msgspec.to_builtins(settings), "model": options.model or "embedded"})
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        model = resolve_model(options.model)
        tell(f"{max(settings.numbers)} adapters of random weights")
        folders = tuple(
            str(make_adapter(Path(folder), task_of(f"random-{seed}"), seed=seed, base=model))
            for seed in range(max(settings.numbers))
        )
        base = Base(path=model.path, name=model.name, adapters=folders)
        measure(base, settings, stuff, rows, options.out.with_suffix(".log"))
    told = {**msgspec.to_builtins(settings), "model": model.name}
    result = {**header("adapters", SCHEMA, told), **summarise(settings, rows), "targets": [], "rows": rows_path.name}
    write_json(options.out, result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder for the task")
    parser.add_argument(
        "--out", type=Path, required=True, help="where the result goes; .rows.jsonl and .html beside it"
    )
    parser.add_argument("--model", help="base model; the embedded one if left out")
    parser.add_argument("--most", type=positive, metavar="N", help="adapters at most (default: 1,024)")
    parser.add_argument("--repeats", type=positive, help="of every cell (default: 3)")
    parser.add_argument("--task", help="whose texts and examples are sent (default: sst2)")
    parser.add_argument("--kv-cache-mib", type=positive, help="memory for cached examples (default: 512)")
    parser.add_argument(
        "--scratch",
        type=Path,
        help="where the adapters are put, 5 GB with the embedded model (default: temporary files)",
    )
    options = parser.parse_args()
    result = run(options)
    write_report(options.out.with_suffix(".html"), result)
    print(console_table(result))


if __name__ == "__main__":
    main()

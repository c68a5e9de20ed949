"""LoRA against in-context learning: latency and throughput of every way of classifying, beside the limit of each.

    fourshot bench latency --data FOLDER --out FILE.json      also writes FILE.rows.jsonl and FILE.html

`FOLDER` has sst2/, trec/ and ag_news/ with train and test files. A run that was killed goes on where it was. What is
measured, and what could be said against it: docs/benchmarks.md.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.driver import CellOrder, CellResult
from fourshot.bench.core.engine_process import EngineOrder, EngineProcess
from fourshot.bench.core.old import Rows, check_data, check_out, header, positive, tell, write_json
from fourshot.bench.core.workload import WAYS, Material, Request, material
from fourshot.bench.suites.latency.plan import Cell, LatencySettings, in_process_cells
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import InputError
from fourshot.pipeline.tasks.task_file import shipped_tasks

SCHEMA = 1
ENGINE_WARMUP = {"icl_off": 4, "icl_cold": 4, "transformers_icl": 1, "transformers_lora": 1}  # requests; others: 24


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """What all engines of the suite are opened on."""

    path: str
    name: str
    load_format: str = "auto"
    adapters: tuple[str, ...] = ()  # folders of random adapters
    merged: str = ""  # the first of them merged into the base; "": it would have the base's shape and no other weights


def engine_orders(base: Base, settings: LatencySettings, sleep_s: float = 0.0) -> dict[str, EngineOrder]:
    """The engines that the suite's ways need, by name."""
    plain = EngineSettings(
        model=base.path,
        max_model_len=settings.max_model_len,
        kv_cache_bytes=settings.kv_cache_mib << 20,
        gpu_kv_cache_bytes=settings.gpu_kv_cache_mib << 20,
        load_format=base.load_format,
        compile=settings.compile,
    )
    replaced = msgspec.structs.replace
    engines = {
        "base": EngineOrder(settings=plain),
        "uncached": EngineOrder(settings=replaced(plain, prefix_caching=False)),
        "lora": EngineOrder(
            settings=replaced(plain, max_loras=settings.many_adapters, compile=False), adapters=base.adapters
        ),
        "merged": EngineOrder(settings=replaced(plain, model=base.merged)),
        "transformers": EngineOrder(settings=replaced(plain, kind="transformers"), adapters=base.adapters[:1]),
    }
    wanted = {WAYS[way].engine for way in settings.measured_ways}
    return {name: replaced(order, sleep_s=sleep_s) for name, order in engines.items() if name in wanted}


@contextmanager
def engines(orders: dict[str, EngineOrder], log: Path) -> Iterator[dict[str, EngineProcess]]:
    """All of them started, one after the other; all ended."""
    running: dict[str, EngineProcess] = {}
    try:
        for name, order in orders.items():
            running[name] = EngineProcess(order, log)
            tell(f"engine {name}: ready in {running[name].started.start_s:.0f} s")
        yield running
    finally:
        for one in running.values():
            one.close()


def cell_order(cell: Cell, stuff: Material, settings: LatencySettings) -> CellOrder:
    """Requests of a cell. All ways get the same texts in the same order, each repeat others."""
    way = WAYS[cell.way]
    start = cell.repeat * settings.most_requests
    last = len(stuff.texts) - settings.warmup_requests
    return CellOrder(
        requests=tuple(stuff.requests(way, start, cell.requests, settings.many_adapters)),
        warmup=tuple(stuff.requests(way, last, settings.warmup_requests, settings.many_adapters)),
        labels=stuff.task.label_words,
        concurrency=1 if way.one_by_one else cell.concurrency,
    )


def measure_in_process(base: Base, settings: LatencySettings, stuff: dict[str, Material], rows: Rows, log: Path,
                       sleep_s: float = 0.0) -> None:  # fmt: skip
    """Every cell that ``rows`` does not have yet."""
    cells = [cell for cell in in_process_cells(settings) if cell.name not in rows.found]
    if not cells:
        return
    with engines(engine_orders(base, settings, sleep_s), log) as running:
        for name in settings.ways:
            _warm_up(running[WAYS[name].engine], name, stuff, settings)
        for number, cell in enumerate(cells, start=1):
            order = cell_order(cell, stuff[cell.task], settings)
            result = running[WAYS[cell.way].engine].run(order)
            rows.add(cell.name, msgspec.to_builtins(_rounded(result)))
            rate = len(result.rows) / result.seconds
            tell(f"{number}/{len(cells)}  {cell.name}: {rate:.1f} requests/s")


def _warm_up(engine: EngineProcess, name: str, stuff: dict[str, Material], settings: LatencySettings) -> None:
    """Kernels are built for the shapes that come first."""
    way = WAYS[name]
    for one in stuff.values():
        number = ENGINE_WARMUP.get(name, 24)
        requests: Sequence[Request] = one.requests(way, len(one.texts) - number, number, settings.many_adapters)
        order = CellOrder(requests=tuple(requests), warmup=(), labels=one.task.label_words, concurrency=0)
        engine.run(order)


def _rounded(result: CellResult) -> CellResult:
    """Microseconds are enough, and shorter."""
    rows = tuple(
        msgspec.structs.replace(
            one, sent_s=round(one.sent_s, 6), begun_s=round(one.begun_s, 6), done_s=round(one.done_s, 6)
        )
        for one in result.rows
    )
    return msgspec.structs.replace(result, rows=rows)


def prepare(options: argparse.Namespace, folder: Path, settings: LatencySettings) -> Base:
    """Base model or shape, adapters of random weights, and the first of them merged."""
    from fourshot.bench.core.model_shape import SHAPES, write_shape
    from fourshot.engine.models import resolve_model
    from fourshot.serving.testing.adapters import make_adapter, task_of

    if options.shape:
        path = write_shape(SHAPES[options.shape], folder / options.shape, resolve_model(None).path)
        model, load_format = resolve_model(str(path), weights=False), "dummy"
        name = options.shape
    else:
        model, load_format = resolve_model(options.model), "auto"
        name = model.name
    adapters = tuple(
        str(make_adapter(folder / "adapters", task_of(f"random-{seed}"), seed=seed, base=model))
        for seed in range(settings.many_adapters)
    )
    merged = ""
    if load_format == "auto" and "lora_merged" in settings.ways:
        merged = str(_merged(model.path, adapters[0], folder / "merged"))
    return Base(path=model.path, name=name, load_format=load_format, adapters=adapters, merged=merged)


def _merged(model: str, adapter: str, out: Path) -> Path:
    """In a process of its own: it takes a second base, whose memory is wanted back."""
    import subprocess
    import sys

    code = "import sys; from fourshot.training.lora.merging import merge; merge(*sys.argv[1:])"
    subprocess.run([sys.executable, "-c", code, model, adapter, str(out)], check=True, stdout=sys.stderr)
    return out


def settings_of(options: argparse.Namespace) -> LatencySettings:
    """The defaults, or those of --settings, with what the command line says."""
    settings = LatencySettings()
    if options.settings:
        try:
            settings = msgspec.json.decode(options.settings.read_bytes(), type=LatencySettings)
        except OSError as error:
            raise InputError(f"--settings {options.settings} cannot be read: {error.strerror}.") from error
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise InputError(
                f"{options.settings}: {str(error).rstrip('.')}. It may have the keys "
                f"{', '.join(LatencySettings.__struct_fields__)}."
            ) from error
    changed: dict[str, Any] = {}
    if options.tasks is not None:
        changed["tasks"] = tuple(name.strip() for name in options.tasks.split(","))
    if options.repeats:
        changed["repeats"] = options.repeats
    if options.shape or options.no_http:
        changed["http"] = False
    if options.shape:
        changed["ways"] = tuple(way for way in settings.ways if WAYS[way].engine not in ("merged", "transformers"))
    settings = msgspec.structs.replace(settings, **changed)
    if unknown := [way for way in (*settings.ways, *settings.http_ways) if way not in WAYS]:
        raise InputError(f"unknown ways {unknown}. Allowed are {', '.join(WAYS)}.")
    if unknown := [task for task in (*settings.tasks, *settings.open_tasks) if task not in shipped_tasks()]:
        raise InputError(f"unknown tasks {unknown}. Allowed are {', '.join(sorted(shipped_tasks()))}.")
    return settings


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is missing, and write everything; with --no-measure, write what there is."""
    from fourshot.bench.suites.latency.summary import summarise

    settings = settings_of(options)
    check_out(options.out)
    rows_path = options.out.with_suffix(".rows.jsonl")
    named = options.shape or options.model or "embedded"
    rows = Rows(rows_path, {**msgspec.to_builtins(settings), "model": named})
    if not options.no_measure:
        measure(options, settings, rows)
    elif not any(cell.name in rows.found for cell in in_process_cells(settings)):
        raise InputError(f"{rows_path} holds no cell yet. Measure first: leave --no-measure out.")
    result = {**rows.found["header"], **summarise(settings, rows.found), "rows": rows_path.name}
    write_json(options.out, result)
    return result


def measure(options: argparse.Namespace, settings: LatencySettings, rows: Rows) -> None:
    """All cells that ``rows`` lacks. The machine is described first: whoever sums up later may sit at another."""
    from fourshot.bench.core.machine import measured
    from fourshot.bench.core.model_shape import shape_of
    from fourshot.bench.suites.latency.http import measure_http

    check_data(options.data, settings.tasks)
    stuff = {name: material(name, options.data, settings.k) for name in settings.tasks}
    with tempfile.TemporaryDirectory() as folder:
        base = prepare(options, Path(folder), settings)
        log = options.out.with_suffix(".log")
        if "header" not in rows.found:
            told = {**msgspec.to_builtins(settings), "model": base.name}
            rows.add("shape", msgspec.to_builtins(shape_of(base.path)))
            rows.add("machine", msgspec.to_builtins(measured(base.path)))
            rows.add("header", header("latency", SCHEMA, told, load_format=base.load_format))
        measure_in_process(base, settings, stuff, rows, log, options.plant_sleep_ms / 1000)
        if settings.http:
            measure_http(settings, stuff, rows, log, options)
        if "machine after" not in rows.found:
            rows.add("machine after", msgspec.to_builtins(measured(base.path)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with sst2/, trec/ and ag_news/")
    parser.add_argument(
        "--out", type=Path, required=True, help="where the result goes; .rows.jsonl and .html beside it"
    )
    parser.add_argument("--model", help="base model; the embedded one if left out")
    parser.add_argument("--shape", help="a real architecture with dummy weights: vicuna-7b, vicuna-13b, llama-1b, tiny")
    parser.add_argument("--settings", type=Path, help="a JSON file of the suite's settings")
    parser.add_argument("--tasks", help="comma-separated (default: sst2,trec,ag_news)")
    parser.add_argument("--repeats", type=positive, help="of every cell (default: 3)")
    parser.add_argument("--no-http", action="store_true", help="in-process cells only")
    parser.add_argument("--cores", default="", help="of the HTTP servers, as taskset names them")
    parser.add_argument("--load-cores", default="", help="of the load generator")
    parser.add_argument("--no-measure", action="store_true", help="sum up the rows of a run, finished or not")
    parser.add_argument("--plant-sleep-ms", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    from fourshot.bench.core.model_shape import SHAPES
    from fourshot.bench.suites.latency.report import console_table, write_report

    if options.shape and options.model:
        raise InputError("--shape and --model are two bases. Give one of them.")
    if options.shape and options.shape not in SHAPES:
        raise InputError(f"unknown shape {options.shape!r}. Allowed are {', '.join(SHAPES)}.")
    result = run(options)
    write_report(options.out.with_suffix(".html"), result)
    print(console_table(result))


if __name__ == "__main__":
    main()

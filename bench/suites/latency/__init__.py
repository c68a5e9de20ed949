"""LoRA against in-context learning: latency and throughput of every variant, with the limit of each.

    fourshot bench latency --data FOLDER --out FILE.json      also writes FILE.rows.jsonl and FILE.html

`FOLDER` has sst2/, trec/ and ag_news/ with train and test files. After a kill, the same command continues.
docs/benchmarks.md explains what is measured, and answers objections.
"""

import os
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.closed_loop import CellMeasurement, CellRequests, EngineSpec, SuiteBase, engines
from fourshot.bench.core.processes import call_in_child, check_cores
from fourshot.bench.core.results import FinishedPieces, path_beside
from fourshot.bench.core.roofline import SHAPES, check_shape, measure_machine, shape_of, write_shape
from fourshot.bench.core.suite import Suite
from fourshot.bench.core.workload import VARIANTS, Workload, load_workload
from fourshot.bench.suites.latency.http import measure_http
from fourshot.bench.suites.latency.plan import (
    HTTP_VARIANTS,
    LatencyCell,
    LatencySettings,
    Options,
    fewer_requests,
    in_process_cells,
)
from fourshot.bench.suites.latency.report import page, report
from fourshot.bench.suites.latency.summary import summarise
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import InputError
from fourshot.engine.machine.gpus import gpus
from fourshot.pipeline.tasks.task_file import shipped_tasks

ENGINE_WARMUP = {"icl_off": 4, "icl_cold": 4, "transformers_icl": 1, "transformers_lora": 1}  # requests; others: 24


def latency_settings(options: Options) -> LatencySettings:
    """Return the defaults or --settings, overridden by other options. Raises InputError for invalid ones."""
    check_shape(options.model, options.shape)
    check_cores("--cores", options.cores)
    check_cores("--load-cores", options.load_cores)
    if options.tokenizer and not options.shape:
        raise InputError("--tokenizer goes with --shape: a model has a tokenizer of its own.")
    settings = LatencySettings()
    if options.settings:
        try:
            settings = msgspec.json.decode(options.settings.read_bytes(), type=LatencySettings)
        except OSError as error:
            raise InputError(f"--settings {options.settings} cannot be read: {error.strerror}.") from error
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise InputError(
                f"{options.settings}: {str(error).rstrip('.')}. It may have the keys "
                f"{', '.join(LatencySettings.__struct_encode_fields__)}."
            ) from error
    given = {"tasks": options.tasks, "repeats": options.repeats}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if options.shape or options.no_http:
        changed["http"] = False
    if options.shape:
        on_weights = ("merged", "transformers")
        changed["variants"] = tuple(name for name in settings.variants if VARIANTS[name].engine not in on_weights)
    settings = msgspec.structs.replace(settings, **changed)
    for key, names, allowed in (
        ("ways", settings.variants, VARIANTS),
        ("slow_requests", settings.slow_requests, VARIANTS),
        ("http_ways", settings.http_variants, HTTP_VARIANTS),
        ("tasks", (*settings.tasks, *settings.open_tasks), sorted(shipped_tasks())),
    ):
        if unknown := [name for name in names if name not in allowed]:
            raise InputError(f"unknown {unknown} in {key}. Allowed are {', '.join(allowed)}.")
    return settings


def engine_specs(base: SuiteBase, settings: LatencySettings, sleep_s: float = 0.0) -> dict[str, EngineSpec]:
    """Return the engines that the suite's variants need, by name."""
    plain = EngineSettings(
        model=base.path,
        load_format=base.load_format,
        kv_cache_bytes=settings.kv_cache_mib << 20,
        gpu_kv_cache_bytes=settings.gpu_kv_cache_mib << 20,
        max_model_len=settings.max_model_len,
        compile=settings.compile,
    )
    replaced = msgspec.structs.replace
    # On the CPU, vLLM does not compile engines with adapters (`LatencySettings.compile`).
    adapted = replaced(plain, max_loras=settings.many_adapters, compile=settings.compile and bool(gpus(os.environ)))
    specs = {
        "base": EngineSpec(settings=plain),
        "uncached": EngineSpec(settings=replaced(plain, prefix_caching=False)),
        "lora": EngineSpec(settings=adapted, adapters=base.adapters),
        "merged": EngineSpec(settings=replaced(plain, model=base.merged)),
        "transformers": EngineSpec(settings=replaced(plain, kind="transformers"), adapters=base.adapters[:1]),
    }
    needed = {VARIANTS[name].engine for name in settings.measured_variants}
    return {name: replaced(spec, sleep_s=sleep_s) for name, spec in specs.items() if name in needed}


def cell_requests(cell: LatencyCell, workload: Workload, settings: LatencySettings) -> CellRequests:
    """Return the requests of a cell. All variants send the same texts in the same order, each repeat other ones."""
    variant = VARIANTS[cell.variant]
    start = cell.repeat * settings.most_requests
    last = len(workload.texts) - settings.warmup_requests
    return CellRequests(
        requests=tuple(workload.requests(variant, start, cell.requests, settings.many_adapters)),
        warmup=tuple(workload.requests(variant, last, settings.warmup_requests, settings.many_adapters)),
        labels=workload.task.label_words,
        concurrency=1 if variant.one_by_one else cell.concurrency,
    )


def measure_in_process(
    specs: dict[str, EngineSpec],
    settings: LatencySettings,
    workloads: dict[str, Workload],
    done: FinishedPieces,
    log: Path,
) -> None:
    """Measure the in-process cells that are not ``done``."""
    cells = in_process_cells(settings)
    if all(cell.name in done.pieces for cell in cells):
        return
    with engines(specs, log) as running:

        def ask(cell: LatencyCell) -> CellMeasurement:
            requests = cell_requests(cell, workloads[cell.task], settings)
            return running[VARIANTS[cell.variant].engine].ask(requests)

        for name, workload in product(settings.variants, workloads.values()):  # compiles kernels for new shapes
            number, labels = min(ENGINE_WARMUP.get(name, 24), len(workload.texts)), workload.task.label_words
            last = len(workload.texts) - number
            requests = tuple(workload.requests(VARIANTS[name], last, number, settings.many_adapters))
            running[VARIANTS[name].engine].ask(CellRequests(requests=requests, warmup=(), labels=labels, concurrency=0))
        done.add_cells(cells, ask)


def prepare(options: Options, folder: Path, settings: LatencySettings) -> SuiteBase:
    """Make what the engines need: the model or shape, adapters with random weights, and one of them merged."""
    from fourshot.serving.testing.adapters import make_adapter, task_of

    if options.shape:
        tokenizer = options.tokenizer or resolve_model(options.model).path
        path = write_shape(SHAPES[options.shape], folder / options.shape, tokenizer)
        model = resolve_model(str(path), weights=False)
    else:
        model = resolve_model(options.model)
    adapters = tuple(
        str(make_adapter(folder / "adapters", task_of(f"random-{seed}"), seed=seed, base=model))
        for seed in range(settings.many_adapters)
    )
    merged = ""
    if not options.shape and "lora_merged" in settings.variants:  # in a process, to free the memory of its base
        merged = call_in_child(merge_adapter, model.path, adapters[0], str(folder / "merged"))
    load_format = "dummy" if options.shape else "auto"
    return SuiteBase(path=model.path, load_format=load_format, adapters=adapters, merged=merged)


def merge_adapter(model: str, adapter: str, out: str) -> str:
    """Write a checkpoint with the adapter merged into the base to ``out``. Return ``out``."""
    from fourshot.training.lora.merging import merge

    merge(model, adapter, out)
    return out


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Measure what is missing, unless --no-measure is given. Raises InputError if there is no cell to summarise."""
    settings = latency_settings(options)
    if not options.no_measure:
        _measure_missing(options, settings, done)
    elif not any(cell.name in done.pieces for cell in in_process_cells(settings)):
        raise InputError(f"{done.path} holds no cell yet. Measure first: leave --no-measure out.")
    assert done.path
    return {**summarise(settings, done.pieces), "rows": done.path.name}


def _measure_missing(options: Options, settings: LatencySettings, done: FinishedPieces) -> None:
    log = path_beside(options.out, ".log")
    with tempfile.TemporaryDirectory() as folder:
        workloads = {name: load_workload(name, options.data, settings.k) for name in settings.tasks}
        for workload in workloads.values():  # first, because the last repeat needs the last texts
            workload.check_texts(settings.texts_needed, fewer_requests(settings, len(workload.texts)))
        base = prepare(options, Path(folder), settings)
        workloads = {name: msgspec.structs.replace(workload, model=base.path) for name, workload in workloads.items()}
        done.add_once("shape", lambda: shape_of(base.path))
        done.add_once("machine", lambda: call_in_child(measure_machine, base.path))
        specs = engine_specs(base, settings, options.plant_sleep_ms / 1000)
        measure_in_process(specs, settings, workloads, done, log)
        if settings.http:
            measure_http(options, settings, workloads, done)
        done.add_once("machine after", lambda: call_in_child(measure_machine, base.path))


SUITE = Suite(
    options=Options,
    settings=lambda options: {
        **msgspec.to_builtins(latency_settings(options)),
        **({"tokenizer": str(options.tokenizer)} if options.tokenizer else {}),
        **({"plant_sleep_ms": options.plant_sleep_ms} if options.plant_sleep_ms else {}),
    },
    tasks=lambda options: () if options.no_measure else latency_settings(options).tasks,
    measure=measure,
    report=report,
    page=page,
)

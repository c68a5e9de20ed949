"""The latency suite over HTTP: `fourshot serve` as a user starts it, and a load generator in a separate process.

There are two servers, because the prefix cache can only be disabled for a complete server. Both serve the tasks'
adapters, and also answer in context with the same examples. Their caches are emptied before every cell.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean

import msgspec

from fourshot.bench.core.closed_loop import CellMeasurement, request_times
from fourshot.bench.core.load import Load, LoadAnswer, LoadRequest, generate
from fourshot.bench.core.results import FinishedPieces, path_beside, show_progress
from fourshot.bench.core.workload import Workload
from fourshot.bench.suites.latency.plan import LatencyCell, LatencySettings, Options, http_cells, open_cells
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import FourshotError
from fourshot.serving.testing.server import RunningService, running_service

TIMEOUT_S = 60.0
PATIENCE = ("--max-queue-s", "1000")  # rejects nothing: retries of a closed loop would hide waiting times


@contextmanager
def servers(
    options: Options, settings: LatencySettings, workloads: Mapping[str, Workload]
) -> Iterator[dict[str, RunningService]]:
    """Start the servers that the variants need: "served", and "uncached" for `icl_off`. Yield them by name."""
    from fourshot.serving.testing.adapters import make_adapter

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        adapters = Path(folder) / "served"
        adapters.mkdir()
        for workload in workloads.values():
            make_adapter(adapters, workload.task, shots=workload.shots, base=resolve_model(options.model))
        os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # lets the cache be emptied
        options_of_all = ["--kv-cache-mib", str(settings.kv_cache_mib), *PATIENCE]
        options_of_all += ["--base", options.model] if options.model else []
        running = {}
        for name, options_of_one in {"served": [], "uncached": ["--vllm", "--no-enable-prefix-caching"]}.items():
            if name == "served" or "icl_off" in settings.http_variants:
                log = path_beside(options.out, f".{name}.log")
                server = running_service(adapters, log, *options_of_all, *options_of_one, cores=options.cores)
                running[name] = stack.enter_context(server)
                show_progress(f"server {name}: ready")
        yield running


def measure_http(
    options: Options, settings: LatencySettings, workloads: Mapping[str, Workload], done: FinishedPieces
) -> None:
    """Measure the HTTP cells that are not ``done``."""
    cells = [*http_cells(settings), *open_cells(settings)]
    if all(cell.name in done.pieces for cell in cells):
        return
    with servers(options, settings, workloads) as running:
        for server in running.values():
            for workload in workloads.values():
                for method in ("adapter", "icl"):  # compiles kernels, loads adapters
                    clients = max(settings.http_seconds)
                    generate(_load(server, workload, method, 3, seconds=1.5, clients=clients), options.load_cores)

        def measure(cell: LatencyCell) -> CellMeasurement:
            server = running["uncached" if cell.variant == "icl_off" else "served"]
            load = _prepared(server, cell, settings, workloads[cell.task], done)
            return _measurement(generate(load, options.load_cores))

        done.add_cells(cells, measure)


def _prepared(
    server: RunningService, cell: LatencyCell, settings: LatencySettings, workload: Workload, done: FinishedPieces
) -> Load:
    """Empty the server's cache, warm it with the cell's method, and return the load of the cell."""
    server.http.post("/reset_prefix_cache").raise_for_status()
    method = "adapter" if cell.variant == "lora" else "icl"
    for text in workload.texts[len(workload.texts) - settings.warmup_requests :]:
        server.classify(workload.task.name, {"input": text, "method": method}).raise_for_status()
    seconds = settings.http_seconds.get(cell.concurrency, settings.open_seconds)
    rate = cell.share * _capacity(cell, settings, done) if cell.route == "http-open" else 0.0
    return _load(server, workload, method, cell.repeat, seconds=seconds, rate=rate, clients=cell.concurrency or 1)


def _load(
    server: RunningService,
    workload: Workload,
    method: str,
    repeat: int,
    *,
    seconds: float,
    clients: int,
    rate: float = 0.0,
) -> Load:
    """Return a load of all texts in order, repeated if there is time. Each of four repeats begins at another text."""
    start = repeat % 4 * len(workload.texts) // 4
    path = f"/v1/classify/{workload.task.name}"
    return Load(
        url=server.address,
        requests=tuple(
            LoadRequest(kind=method, path=path, body=json.dumps({"input": text, "method": method}))
            for text in (*workload.texts[start:], *workload.texts[:start])
        ),
        in_order=True,
        seconds=seconds,
        rate=rate,
        clients=clients,
        seed=repeat,
        timeout_s=TIMEOUT_S,
    )


def _capacity(cell: LatencyCell, settings: LatencySettings, done: FinishedPieces) -> float:
    """Return the requests per second of the variant's closed loops at the highest concurrency."""
    concurrency = max(settings.http_seconds)
    loops = [
        LatencyCell(route="http", variant=cell.variant, task=cell.task, repeat=repeat, concurrency=concurrency)
        for repeat in range(settings.repeats)
    ]
    return fmean(msgspec.convert(done.pieces[loop.name], CellMeasurement).rate for loop in loops)


def _measurement(answers: Sequence[LoadAnswer]) -> CellMeasurement:
    rows = []
    if all(answer.status != 200 for answer in answers):  # before it is stored, because it could not be summarised
        reason = f": {answers[0].status} {answers[0].answer[:300]}" if answers else ""
        raise FourshotError(f"none of {len(answers)} requests was answered{reason}")
    for answer in (answer for answer in answers if answer.status == 200):
        body = json.loads(answer.answer)
        begun_s, usage = answer.due_s + body["results"][0]["queue_ms"] / 1000, body["usage"]
        rows.append(request_times(answer.due_s, begun_s, answer.done_s, usage["prompt_tokens"], usage["cached_tokens"]))
    return CellMeasurement(
        rows=tuple(rows),
        seconds=max(answer.done_s for answer in answers),
        failed=len(answers) - len(rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        cached_tokens=sum(row.cached_tokens for row in rows),
    )

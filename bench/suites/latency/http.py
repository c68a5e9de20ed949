"""The latency suite over HTTP: `fourshot serve` as a user starts it, and a load generator in a process of its own.

Two servers, because the prefix cache is switched off for a whole one. Both hold the tasks' adapters; in context is the
same server's own answer in context, with the same examples. Their caches are emptied before every cell.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from fourshot.bench.core.driver import Answered
from fourshot.bench.core.load import Plan, Row, Shot, generate
from fourshot.bench.core.old import Rows, tell
from fourshot.bench.core.statistics import estimate
from fourshot.bench.core.workload import Material
from fourshot.bench.suites.latency.plan import Cell, LatencySettings, http_cells, open_cells
from fourshot.serving.testing.server import RunningService, running_service

TIMEOUT_S = 60.0
PATIENCE = ("--max-queue-s", "1000")  # nobody is sent away: a closed loop that tries again would hide its waiting


class HttpResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a cell. Seconds run until the last request was answered."""

    rows: tuple[Answered, ...]  # those answered
    seconds: float
    failed: int
    prompt_tokens: int
    cached_tokens: int


@contextmanager
def servers(
    settings: LatencySettings, stuff: dict[str, Material], log: Path, options: argparse.Namespace
) -> Iterator[dict[str, RunningService]]:
    """The servers that the ways need: "served" and "uncached"."""
    from fourshot.engine.models import resolve_model
    from fourshot.serving.testing.adapters import make_adapter

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        adapters = Path(folder) / "served"
        adapters.mkdir()
        for one in stuff.values():
            make_adapter(adapters, one.task, shots=one.shots, base=resolve_model(options.model))
        os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # lets the cache be emptied
        wanted = ["--kv-cache-mib", str(settings.kv_cache_mib), *PATIENCE]
        wanted += ["--base", options.model] if options.model else []
        off = ["--vllm", "--no-enable-prefix-caching"]
        found = {}
        for name, more in {"served": [], "uncached": off}.items():
            if name == "served" or "icl_off" in settings.http_ways:
                found[name] = stack.enter_context(
                    running_service(adapters, log.with_suffix(f".{name}.log"), *wanted, *more, cores=options.cores)
                )
                tell(f"server {name}: ready")
        yield found


def measure_http(
    settings: LatencySettings, stuff: dict[str, Material], rows: Rows, log: Path, options: argparse.Namespace
) -> None:
    """Every cell that ``rows`` does not have yet."""
    cells = [*http_cells(settings), *open_cells(settings)]
    if all(cell.name in rows.found for cell in cells):
        return
    with servers(settings, stuff, log, options) as found:
        for one in found.values():
            _warm_up(one, settings, stuff, options.load_cores)
        for number, cell in enumerate(cells, start=1):
            if cell.name in rows.found:
                continue
            server = found["uncached" if cell.way == "icl_off" else "served"]
            result = _measure(server, cell, settings, stuff[cell.task], rows, options.load_cores)
            rows.add(cell.name, msgspec.to_builtins(result))
            tell(f"{number}/{len(cells)}  {cell.name}: {len(result.rows) / result.seconds:.1f} requests/s")


def _measure(
    server: RunningService, cell: Cell, settings: LatencySettings, stuff: Material, rows: Rows, load_cores: str
) -> HttpResult:
    server.http.post("/reset_prefix_cache").raise_for_status()
    method = "adapter" if cell.way == "lora" else "icl"
    for text in stuff.texts[-settings.warmup_requests :]:
        server.classify(stuff.task.name, {"input": text, "method": method}).raise_for_status()
    rate, seconds = 0.0, settings.http_seconds.get(cell.concurrency, settings.open_seconds)
    if cell.route == "http-open":
        rate = cell.share * _capacity(cell, settings, rows)
    shots = _shots(stuff, method, cell.repeat)
    plan = Plan(
        url=server.address,
        shots=shots,
        weights=(1.0,) * len(shots),
        in_order=True,
        seconds=seconds,
        rate=rate,
        clients=cell.concurrency or 1,
        seed=cell.repeat,
        timeout_s=TIMEOUT_S,
    )
    return _result(generate(plan, load_cores))


def _shots(stuff: Material, method: str, repeat: int) -> tuple[Shot, ...]:
    """Every text once, beginning elsewhere in each repeat."""
    texts = stuff.texts
    start = repeat * len(texts) // 4
    path = f"/v1/classify/{stuff.task.name}"
    return tuple(
        Shot(kind=method, path=path, body=json.dumps({"input": text, "method": method}))
        for text in (*texts[start:], *texts[:start])
    )


def _capacity(cell: Cell, settings: LatencySettings, rows: Rows) -> float:
    """Requests per second of the way's closed loops at the highest concurrency."""
    most = max(settings.http_seconds)
    found = []
    for repeat in range(settings.repeats):
        loop = Cell(route="http", way=cell.way, task=cell.task, repeat=repeat, concurrency=most)
        result = msgspec.convert(rows.found[loop.name], HttpResult)
        found.append(len(result.rows) / result.seconds)
    return estimate(found).mean


def _result(sent: Sequence[Row]) -> HttpResult:
    rows, prompt_tokens, cached_tokens = [], 0, 0
    for one in sent:
        if one.status != 200:
            continue
        answer = json.loads(one.answer)
        usage, text = answer["usage"], answer["results"][0]
        prompt_tokens, cached_tokens = prompt_tokens + usage["prompt_tokens"], cached_tokens + usage["cached_tokens"]
        rows.append(
            Answered(
                sent_s=round(one.due_s, 6),
                begun_s=round(one.due_s + text["queue_ms"] / 1000, 6),
                done_s=round(one.done_s, 6),
                prompt_tokens=usage["prompt_tokens"],
                cached_tokens=usage["cached_tokens"],
            )
        )
    return HttpResult(
        rows=tuple(rows),
        seconds=max(one.done_s for one in sent),
        failed=len(sent) - len(rows),
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
    )


def _warm_up(server: RunningService, settings: LatencySettings, stuff: dict[str, Material], load_cores: str) -> None:
    """Kernels are built, adapters loaded."""
    for one in stuff.values():
        for method in ("adapter", "icl"):
            plan = Plan(
                url=server.address,
                shots=_shots(one, method, 3),
                weights=(1.0,),
                in_order=True,
                seconds=1.5,
                clients=max(settings.http_seconds),
                timeout_s=TIMEOUT_S,
            )
            generate(plan, load_cores)

"""A closed loop of requests to engines, with the times at which each request was queued, begun and answered.

Each engine runs in its own process, measures one cell on request, and is idle otherwise. So all engines of a suite can
be loaded at once, and its cells shuffled across them. Disturbances of the machine then affect all engines equally.

Closed loop: a fixed number of requests is in the engine at any time; each answer queues the next request. Tokenizing is
part of a request's time. A request begins with the model step that answers it, because prompts are never chunked.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

from fourshot.bench.core.processes import OpenerProcess
from fourshot.bench.core.results import show_progress
from fourshot.bench.core.statistics import percentile, with_values
from fourshot.bench.core.workload import PromptRequest
from fourshot.engine.core import Adapter, EngineSettings, Sampling
from fourshot.engine.labels import label_tokens
from fourshot.engine.machine.gpus import torch_device
from fourshot.engine.opening import open_engine
from fourshot.engine.tokens import load_tokenizer
from fourshot.engine.vllm_seams import lora_loads

if TYPE_CHECKING:
    import torch

    from fourshot.engine.vllm_scoring import Scoring

YARD_LAYERS, YARD_ROWS, YARD_PASSES = 30, 32, 3
YARD_SHAPES = ((1536, 576), (576, 1536), (1536, 576), (576, 1536))  # out, in: 3.5 million weights a layer
_weights: "list[list[torch.Tensor]]" = []


class RequestTimes(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Times and token counts of one request; times are seconds since the start of the cell."""

    sent_s: float
    begun_s: float
    done_s: float
    prompt_tokens: int
    cached_tokens: int

    @property
    def latency_s(self) -> float:
        return self.done_s - self.sent_s


class CellRequests(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of one cell."""

    requests: tuple[PromptRequest, ...]
    warmup: tuple[PromptRequest, ...]  # sent before the others and not measured; their cache entries remain
    labels: tuple[str, ...]  # label words
    concurrency: int  # requests in the engine at a time; 0: all at once


class CellMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """Measurement of one repeat of a cell: a row per request, and the increase of the engine's own counters.

    Over HTTP, ``seconds`` end with the last answer, and ``rows`` are the answered requests.
    """

    rows: tuple[RequestTimes, ...]
    seconds: float
    prompt_tokens: int = 0
    cached_tokens: int = 0
    failed: int = 0  # failed requests over HTTP
    adapter_loads: dict[str, tuple[int, float]] = {}  # kind -> uses, seconds: `engine.vllm_seams.lora_loads`
    yardstick_s: float = 0.0  # mean of `yardstick` before and after the cell: the machine's speed at that time

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.rows) / self.seconds

    @property
    def latencies_ms(self) -> list[float]:
        return [1000 * row.latency_s for row in self.rows]

    @property
    def median_ms(self) -> float:
        return median(self.latencies_ms)


def repeated(repeats: Sequence[CellMeasurement]) -> dict[str, Any]:
    """Return the statistics of a cell: means over repeats with intervals, percentiles of all requests pooled."""
    pooled = [latency for repeat in repeats for latency in repeat.latencies_ms]
    tokens = sum(repeat.prompt_tokens for repeat in repeats)
    return {
        "requests_per_s": with_values([repeat.rate for repeat in repeats]),
        "p50_ms": with_values([repeat.median_ms for repeat in repeats]),
        "p95_ms": percentile(pooled, 0.95),
        "p99_ms": percentile(pooled, 0.99),
        "hit_rate": sum(repeat.cached_tokens for repeat in repeats) / tokens if tokens else 0.0,
        "yardstick_s": [repeat.yardstick_s for repeat in repeats],
    }


def run_cell(engine: Any, adapters: Sequence[Any], cell: CellRequests) -> CellMeasurement:
    """Empty the prefix cache, send the warm-up requests, and measure the requests of ``cell``.

    Engines without ``begin_score`` (transformers) are measured one request at a time.
    """
    engine.reset_prefix_cache()
    yard_s = yardstick()
    send = _closed_loop if hasattr(engine, "begin_score") else _one_by_one
    send(engine, adapters, cell.warmup, cell)
    before, loads = engine.stats(), lora_loads.counts()
    started = time.perf_counter()
    rows = send(engine, adapters, cell.requests, cell)
    seconds, ran = time.perf_counter() - started, engine.stats().since(before)
    return CellMeasurement(
        rows=tuple(rows),
        seconds=seconds,
        prompt_tokens=ran.prompt_tokens,
        cached_tokens=ran.cached_tokens,
        adapter_loads={
            kind: (uses - loads[kind][0], seconds - loads[kind][1])
            for kind, (uses, seconds) in lora_loads.counts().items()
        },
        yardstick_s=(yard_s + yardstick()) / 2,
    )


def yardstick() -> float:
    """Return the median seconds of a synthetic pass that stresses the machine like an engine's pass over a short text.

    It is a sequence of many small matrix products over weights too large for the processor's caches. Contention on a
    shared machine (memory, shared caches, a core taken away) slows it as it slows an engine. Large products alone are
    not affected.
    """
    import torch

    device = torch_device()
    if not _weights:
        for _ in range(YARD_LAYERS):
            _weights.append([torch.ones(out, width, dtype=torch.bfloat16, device=device) for out, width in YARD_SHAPES])
    pass_times = []
    with torch.inference_mode():
        for _ in range(YARD_PASSES):
            started = time.perf_counter()
            x = torch.ones(YARD_ROWS, YARD_SHAPES[0][1], dtype=torch.bfloat16, device=device)
            for layer in _weights:
                for weights in layer:
                    x = torch.nn.functional.linear(x, weights).clamp_(-1, 1)
            float(x.sum())
            pass_times.append(time.perf_counter() - started)
    return median(pass_times)


def _closed_loop(
    engine: Any, adapters: Sequence[Any], requests: Sequence[PromptRequest], cell: CellRequests
) -> list[RequestTimes]:
    labels = engine.label_tokens(cell.labels)
    concurrency = cell.concurrency or len(requests)
    waiting = list(reversed(requests))
    live: list[tuple[float, Scoring]] = []
    rows: list[RequestTimes] = []
    began = time.perf_counter()
    while waiting or live:
        while waiting and len(live) < concurrency:
            request = waiting.pop()
            sent_s = time.perf_counter() - began
            prompt = engine.encode([request.prompt])[0]
            adapter = adapters[request.adapter] if request.adapter >= 0 else None
            live.append((sent_s, engine.begin_score(prompt, labels, adapter)))
        begun_s = time.perf_counter() - began
        engine.advance()
        done_s = time.perf_counter() - began
        rows += [
            request_times(sent_s, begun_s, done_s, scoring.prompt_tokens, scoring.cached_tokens)
            for sent_s, scoring in live
            if scoring.done
        ]
        live = [pair for pair in live if not pair[1].done]
    return rows


def _one_by_one(
    engine: Any, adapters: Sequence[Any], requests: Sequence[PromptRequest], cell: CellRequests
) -> list[RequestTimes]:
    """Generate the label of one request after the other, as the paper measured.

    Source: Patwa et al. 2024, section 4 (Hugging Face generation).
    """
    longest = label_tokens(load_tokenizer(engine.settings.model), cell.labels).longest
    sampling = Sampling(temperature=0.0, max_tokens=longest, stop=("\n",))
    rows = []
    began = time.perf_counter()
    for request in requests:
        sent_s = time.perf_counter() - began
        tokens_before = engine.stats().prompt_tokens
        adapter = adapters[request.adapter] if request.adapter >= 0 else None
        list(engine.sample([request.prompt], sampling, adapter))
        done_s, tokens = time.perf_counter() - began, engine.stats().prompt_tokens - tokens_before
        rows.append(request_times(sent_s, sent_s, done_s, tokens, 0))
    return rows


def request_times(sent_s: float, begun_s: float, done_s: float, prompt_tokens: int, cached_tokens: int) -> RequestTimes:
    """Return `RequestTimes` rounded to microseconds, which keeps result files short."""
    return RequestTimes(
        sent_s=round(sent_s, 6),
        begun_s=round(begun_s, 6),
        done_s=round(done_s, 6),
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
    )


Engines = Mapping[str, OpenerProcess[CellRequests, CellMeasurement]]


class SuiteBase(msgspec.Struct, frozen=True, kw_only=True):
    """The base model of a suite's engines, and its adapters."""

    path: str
    load_format: str = "auto"
    adapters: tuple[str, ...] = ()  # folders of random adapters
    merged: str = ""  # checkpoint of the base with the first adapter merged; "": none, that variant is not measured


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How to open one engine."""

    settings: EngineSettings
    adapters: tuple[str, ...] = ()  # folders
    sleep_s: float = 0.0  # before every step of the model: a planted slowdown, to test whether it is detected


def open_for_cells(spec: EngineSpec) -> Callable[[CellRequests], CellMeasurement]:
    """Open the engine of ``spec``. Return a function that measures one cell with it."""
    engine: Any = open_engine(spec.settings)
    adapters = [Adapter(name=Path(folder).name, path=folder) for folder in spec.adapters]
    if spec.sleep_s:
        advance = engine.advance

        def slowly() -> None:
            time.sleep(spec.sleep_s)
            advance()

        engine.advance = slowly
    return lambda cell: run_cell(engine, adapters, cell)


@contextmanager
def engines(specs: Mapping[str, EngineSpec], log: Path) -> Iterator[Engines]:
    """Start the engines of ``specs`` one after the other, each in its own process; end all of them on exit."""
    with ExitStack() as stack:
        running = {}
        for name, spec in specs.items():
            running[name] = stack.enter_context(closing(OpenerProcess(open_for_cells, spec, log)))
            show_progress(f"engine {name}: ready in {running[name].start_s:.0f} s")
        yield running

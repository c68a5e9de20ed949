"""Sending requests to engines, and noting when each was queued, begun and answered.

Each engine has a process of its own, measures one cell when it is asked to and rests otherwise. So all engines of a
suite can be there at once and the order of its cells be shuffled over them: what the machine does to one, it does to
all.

Closed loop: so many requests are in the engine at any time; when one is answered the next is queued. Tokenizing is part
of a request's time. A request is begun with the step of the model that answers it: prompts are never cut in pieces.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

from fourshot.bench.core.processes import OpenerProcess
from fourshot.bench.core.results import tell
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
    """One request; seconds since the cell began."""

    sent_s: float
    begun_s: float
    done_s: float
    prompt_tokens: int
    cached_tokens: int

    @property
    def latency_s(self) -> float:
        return self.done_s - self.sent_s


class CellRequests(msgspec.Struct, frozen=True, kw_only=True):
    """What to send."""

    requests: tuple[PromptRequest, ...]
    warmup: tuple[PromptRequest, ...]  # sent before, not counted; what they leave in the cache is there
    labels: tuple[str, ...]  # words
    concurrency: int  # 0: all at once


class CellMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. The engine's own counters, as differences, stand beside the rows. Over HTTP, seconds run until
    the last request was answered, and rows are those that were."""

    rows: tuple[RequestTimes, ...]
    seconds: float
    prompt_tokens: int = 0
    cached_tokens: int = 0
    failed: int = 0  # over HTTP
    adapter_loads: dict[str, tuple[int, float]] = {}  # kind -> uses, seconds: `engine.vllm_seams.lora_loads`
    yardstick_s: float = 0.0  # what a fixed piece of arithmetic took around the cell: how fast the machine was then

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
    """What the repeats of a cell come to: means with intervals, percentiles of all their requests together."""
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
    """Empty the prefix cache, warm up, measure."""
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
    """Median seconds of a pass that is like an engine's on a short text and has nothing to do with one.

    Many small matrix products one after the other over weights that no cache holds: what slows those on a machine that
    others use too (memory, shared caches, a core taken away) slows this alike. Large products alone do not feel it.
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
    """Generation of the label, one request after the other: how the paper measured.

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
    """Microseconds are enough, and shorter."""
    return RequestTimes(
        sent_s=round(sent_s, 6),
        begun_s=round(begun_s, 6),
        done_s=round(done_s, 6),
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
    )


Engines = Mapping[str, OpenerProcess[CellRequests, CellMeasurement]]


class SuiteBase(msgspec.Struct, frozen=True, kw_only=True):
    """What all engines of a suite are opened on."""

    path: str
    load_format: str = "auto"
    adapters: tuple[str, ...] = ()  # folders of random adapters
    merged: str = ""  # the first of them merged into the base; "": it would have the base's shape and no other weights


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Which engine."""

    settings: EngineSettings
    adapters: tuple[str, ...] = ()  # folders
    sleep_s: float = 0.0  # before every step of the model: a slowdown that is planted, to see whether it is found


def open_for_cells(spec: EngineSpec) -> Callable[[CellRequests], CellMeasurement]:
    """An engine that measures cells."""
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
    """All of them started, one after the other; all ended."""
    with ExitStack() as stack:
        running = {}
        for name, spec in specs.items():
            running[name] = stack.enter_context(closing(OpenerProcess(open_for_cells, spec, log)))
            tell(f"engine {name}: ready in {running[name].start_s:.0f} s")
        yield running

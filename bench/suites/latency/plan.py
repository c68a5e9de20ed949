"""What the latency suite measures: its options, its settings, and the cells that follow from them, shuffled."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from fourshot.bench.core.options import HIDDEN, THREE_TASKS, Model, Out, Positive, Shape
from fourshot.bench.core.workload import VARIANTS

FLOOR = "floor"  # a request without a text: the limits need it, so it is measured whatever else is
SATURATED = 0  # the concurrency of a cell whose requests are all there at once
REQUESTS = {1: 12, 4: 24, 16: 32, 64: 64, SATURATED: 96}
SLOW_REQUESTS = {
    "icl_off": {1: 6, 4: 8, 16: 16, 64: 64, SATURATED: 24},
    "icl_cold": {1: 6, SATURATED: 16},
    "transformers_icl": {1: 2},
    "transformers_lora": {1: 4},
    FLOOR: {1: 24, SATURATED: 96},
}
HTTP_SECONDS = {1: 1.5, 16: 2.0}
Load = Annotated[int, msgspec.Meta(ge=0)]  # requests at a time; `SATURATED`: all at once
Above0 = Annotated[float, msgspec.Meta(gt=0)]


class LatencySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One home for what can be set. The defaults take under 20 minutes on two cores with the embedded model."""

    tasks: tuple[str, ...] = ("sst2", "trec", "ag_news")
    k: Positive = 4  # shots per class, as in the paper
    variants: tuple[str, ...] = msgspec.field(default=tuple(VARIANTS), name="ways")
    repeats: Positive = 3
    # Concurrency -> requests. A variant that computes its shots for every request has `slow_requests`; where that lacks
    # a concurrency, it is not measured there.
    requests: Annotated[dict[Load, Positive], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=REQUESTS.copy)
    slow_requests: dict[str, dict[Load, Positive]] = msgspec.field(default_factory=SLOW_REQUESTS.copy)
    warmup_requests: Annotated[int, msgspec.Meta(ge=0)] = 3
    many_adapters: Positive = 8
    http: bool = True
    http_variants: tuple[str, ...] = msgspec.field(default=("lora", "icl_warm", "icl_off"), name="http_ways")
    http_seconds: dict[Load, Above0] = msgspec.field(default_factory=HTTP_SECONDS.copy)  # concurrency -> closed loop
    open_tasks: tuple[str, ...] = ("sst2",)
    open_shares: tuple[Above0, ...] = (0.5, 0.8)  # of what the variant answered at the highest concurrency
    open_seconds: Above0 = 3.0
    slo_ms: Above0 = 250.0  # goodput counts what was answered within it
    compile: bool = False  # torch.compile; on the CPU of engines without adapters: with adapters vLLM has none there
    max_model_len: int = 2048
    kv_cache_mib: int = 512  # of each engine, on the CPU
    gpu_kv_cache_mib: int = 8192
    seed: int = 0  # shuffles the cells

    @property
    def measured_variants(self) -> tuple[str, ...]:
        """`variants`, and what the limits are computed with."""
        return tuple(dict.fromkeys((*self.variants, FLOOR)))

    @property
    def most_requests(self) -> int:
        """Of one in-process cell; so many texts lie between the first texts of two repeats."""
        return max(number for some in (self.requests, *self.slow_requests.values()) for number in some.values())

    @property
    def texts_needed(self) -> int:
        """Different texts in each task's test split: no in-process cell sends one that another repeat sent."""
        return self.repeats * self.most_requests + self.warmup_requests


def fewer_requests(settings: LatencySettings, num_texts: int) -> str:
    """For people: how to measure with so many texts; "" where they are too few for that."""
    most = (num_texts - settings.warmup_requests) // settings.repeats
    if most < 1:
        return ""
    smaller = json.dumps({"requests": {"1": min(REQUESTS[1], most), SATURATED: most}, "slow_requests": {}})
    return f"or measure fewer requests: put {smaller}, for example, into a file, and name it with --settings"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: Annotated[Path, f"{THREE_TASKS}, each with {LatencySettings().texts_needed} different test texts"]
    out: Out
    model: Model = None
    shape: Shape = None
    tokenizer: Annotated[Path | None, "with --shape: a folder with its tokenizer (default: the embedded one)"] = None
    settings: Annotated[Path | None, "a JSON file of the suite's settings"] = None
    tasks: Annotated[tuple[str, ...] | None, "default: sst2 trec ag_news"] = None
    repeats: Annotated[Positive | None, "of every cell (default: 3)"] = None
    no_http: Annotated[bool, "in-process cells only"] = False
    cores: Annotated[str, "of the HTTP servers, as taskset names them"] = ""
    load_cores: Annotated[str, "of the load generator"] = ""
    no_measure: Annotated[bool, "sum up the rows of a run, finished or not"] = False
    plant_sleep_ms: Annotated[float, HIDDEN] = 0.0


class LatencyCell(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to measure, once."""

    route: Literal["in-process", "http", "http-open"]
    variant: str
    task: str
    repeat: int
    concurrency: int = 0  # of a closed loop; `SATURATED`: everything at once
    share: float = 0.0  # of an open loop: arrivals per second as a share of capacity
    requests: int = 0  # in-process

    @property
    def name(self) -> str:
        load = f"share {self.share:g}" if self.route == "http-open" else f"c{self.concurrency}"
        return f"{self.route}/{self.variant}/{self.task}/{load}/{self.repeat}"

    @property
    def group(self) -> tuple[str, str, str, float]:
        """What its repeats have in common: route, variant, task, load."""
        return self.route, self.variant, self.task, self.share if self.route == "http-open" else self.concurrency


def in_process_cells(settings: LatencySettings) -> list[LatencyCell]:
    """All repeats of all cells; each repeat in an order of its own, so that drift of the machine meets all alike."""
    cells = []
    for repeat in range(settings.repeats):
        block = [
            LatencyCell(
                route="in-process", variant=name, task=task, repeat=repeat, concurrency=concurrency, requests=number
            )
            for name in settings.measured_variants
            for task in (settings.tasks[:1] if name == FLOOR else settings.tasks)
            for concurrency, number in settings.slow_requests.get(name, settings.requests).items()
        ]
        random.Random(f"{settings.seed}/{repeat}").shuffle(block)
        cells += block
    return cells


def http_cells(settings: LatencySettings) -> list[LatencyCell]:
    """Closed loops first: open loops need their capacity."""
    cells = []
    for repeat in range(settings.repeats):
        block = [
            LatencyCell(route="http", variant=name, task=task, repeat=repeat, concurrency=concurrency)
            for name in settings.http_variants
            for task in settings.tasks
            for concurrency in settings.http_seconds
        ]
        random.Random(f"{settings.seed}/http/{repeat}").shuffle(block)
        cells += block
    return cells


def open_cells(settings: LatencySettings) -> Iterator[LatencyCell]:
    """Poisson arrivals at shares of each variant's own capacity."""
    for repeat in range(settings.repeats):
        for task in settings.open_tasks:
            for name in settings.http_variants:
                for share in settings.open_shares:
                    yield LatencyCell(route="http-open", variant=name, task=task, repeat=repeat, share=share)


def all_cells(settings: LatencySettings) -> list[LatencyCell]:
    """In the order in which they are measured."""
    http = [*http_cells(settings), *open_cells(settings)] if settings.http else []
    return [*in_process_cells(settings), *http]

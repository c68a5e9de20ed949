"""The latency suite's options and settings, and the cells that follow from them, in shuffled order."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from fourshot.bench.core.options import HIDDEN, THREE_TASKS, Model, Out, Positive, Shape
from fourshot.bench.core.workload import VARIANTS

FLOOR = "floor"  # a request without a text; always measured, because the limits need it
SATURATED = 0  # the concurrency of a cell whose requests are all sent at once
REQUESTS = {1: 12, 4: 24, 16: 32, 64: 64, SATURATED: 96}
SLOW_REQUESTS = {
    "icl_off": {1: 6, 4: 8, 16: 16, 64: 64, SATURATED: 24},
    "icl_cold": {1: 6, SATURATED: 16},
    "transformers_icl": {1: 2},
    "transformers_lora": {1: 4},
    FLOOR: {1: 24, SATURATED: 96},
}
HTTP_SECONDS = {1: 1.5, 16: 2.0}
HTTP_VARIANTS = ("lora", "icl_warm", "icl_off")  # what a request to a service can ask for
Load = Annotated[int, msgspec.Meta(ge=0)]  # concurrent requests; `SATURATED`: all at once
Above0 = Annotated[float, msgspec.Meta(gt=0)]
PerLoad = Annotated[dict[Load, Above0], msgspec.Meta(min_length=1)]  # concurrency -> seconds


class LatencySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of the suite. With the defaults, it takes under 20 minutes on two cores with the embedded model."""

    tasks: tuple[str, ...] = ("sst2", "trec", "ag_news")
    k: Positive = 4  # shots per class, as in the paper
    variants: tuple[str, ...] = msgspec.field(default=tuple(VARIANTS), name="ways")
    repeats: Positive = 3
    # Concurrency -> number of requests. `slow_requests` replaces it for variants that compute their shots for every
    # request; they are not measured at a concurrency that it lacks.
    requests: Annotated[dict[Load, Positive], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=REQUESTS.copy)
    slow_requests: dict[str, dict[Load, Positive]] = msgspec.field(default_factory=SLOW_REQUESTS.copy)
    warmup_requests: Annotated[int, msgspec.Meta(ge=0)] = 3
    many_adapters: Positive = 8
    http: bool = True
    http_variants: tuple[str, ...] = msgspec.field(default=HTTP_VARIANTS, name="http_ways")
    http_seconds: PerLoad = msgspec.field(default_factory=HTTP_SECONDS.copy)
    open_tasks: tuple[str, ...] = ("sst2",)  # those of them that are in `tasks`
    open_shares: tuple[Above0, ...] = (0.5, 0.8)  # loads as shares of the variant's rate at the highest concurrency
    open_seconds: Above0 = 3.0
    slo_ms: Above0 = 250.0  # goodput counts responses within this time
    compile: bool = False  # torch.compile; on the CPU only for engines without adapters, as vLLM supports
    max_model_len: int = 2048
    kv_cache_mib: int = 512  # of each engine on the CPU
    gpu_kv_cache_mib: int = 8192
    seed: int = 0  # shuffles the cells

    @property
    def measured_variants(self) -> tuple[str, ...]:
        """`variants` and `FLOOR`, which the limits are computed with."""
        return tuple(dict.fromkeys((*self.variants, FLOOR)))

    @property
    def most_requests(self) -> int:
        """The most requests of an in-process cell; the first texts of two repeats are that many texts apart."""
        return max(number for some in (self.requests, *self.slow_requests.values()) for number in some.values())

    @property
    def texts_needed(self) -> int:
        """Number of different test texts per task: no in-process cell may send a text of another repeat."""
        return self.repeats * self.most_requests + self.warmup_requests


def fewer_requests(settings: LatencySettings, num_texts: int) -> str:
    """Return advice for the user on how to measure with ``num_texts`` texts; "" if they are too few."""
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
    """One repeat of a cell: one variant on one task at one load."""

    route: Literal["in-process", "http", "http-open"]
    variant: str
    task: str
    repeat: int
    concurrency: int = 0  # of a closed loop; `SATURATED`: all at once
    share: float = 0.0  # of an open loop: arrivals per second as a share of capacity
    requests: int = 0  # number of requests, of in-process cells

    @property
    def name(self) -> str:
        load = f"share {self.share:g}" if self.route == "http-open" else f"c{self.concurrency}"
        return f"{self.route}/{self.variant}/{self.task}/{load}/{self.repeat}"

    @property
    def group(self) -> tuple[str, str, str, float]:
        """Key shared by the repeats of a cell: route, variant, task, load (share or concurrency)."""
        return self.route, self.variant, self.task, self.share if self.route == "http-open" else self.concurrency


def in_process_cells(settings: LatencySettings) -> list[LatencyCell]:
    """Return all repeats, each in another random order, so that drift of the machine affects all cells alike."""
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
    """Return the closed loops over HTTP. They precede the open loops, which need their capacity."""
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
    """Yield the open loops: Poisson arrivals at shares of each variant's own capacity."""
    for repeat in range(settings.repeats):
        for task in filter(settings.tasks.__contains__, settings.open_tasks):
            for name in settings.http_variants:
                for share in settings.open_shares:
                    yield LatencyCell(route="http-open", variant=name, task=task, repeat=repeat, share=share)


def all_cells(settings: LatencySettings) -> list[LatencyCell]:
    """Return all cells in the order of measuring."""
    http = [*http_cells(settings), *open_cells(settings)] if settings.http else []
    return [*in_process_cells(settings), *http]

"""The service under load: a long mixed one with adapters coming and going, one of five times what it can do, and the
price of many adapters in one batch.

    fourshot bench serving --data FOLDER --out bench/results/serving-<hardware>.json

`FOLDER` has sst2/, trec/ and ag_news/. Ten tasks, each with two versions of random weights: what serving costs does not
depend on what an adapter has learnt, and what each version answers was asked of an engine of our own beforehand. The
load generator is a process of its own, on cores of its own (--load-cores). Every answer is compared.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.load import Load, LoadAnswer, generate
from fourshot.bench.core.model_shape import opened_base
from fourshot.bench.core.options import JsonOut, Model, Positive, Shape
from fourshot.bench.core.parts import Part, TablePart
from fourshot.bench.core.results import read_result, tell
from fourshot.bench.core.rows import ResultRows
from fourshot.bench.core.suite import Suite
from fourshot.bench.core.targets import at_most
from fourshot.bench.suites.serving.batches import batch_targets, multi_lora
from fourshot.bench.suites.serving.judge import Judge
from fourshot.bench.suites.serving.traffic import (
    BAD_SHARE,
    CHURN_S,
    SOURCES,
    TASKS,
    ZIPF,
    Churn,
    MemorySampler,
    Traffic,
    put_adapter,
)
from fourshot.engine.errors import InputError
from fourshot.serving.testing.server import RunningService, running_service

SHARE, OVER = 0.7, 5.0  # of capacity
OVERLOAD_P99_GOAL, GROWTH_GOAL, RECOVERY_GOAL_S = 2.0, 0.05, 5.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: Annotated[Path | None, "a folder with sst2/, trec/ and ag_news/"] = None
    model: Model = None
    shape: Shape = None
    seconds: Annotated[float, msgspec.Meta(ge=20), "of the long load, at least 20: memory is looked at every 2"] = 600
    clients: Annotated[Positive, "that measure the capacity"] = 16
    cores: Annotated[str, "of the service, as taskset names them"] = ""
    load_cores: Annotated[str, "of the load generator"] = ""
    out: JsonOut = None
    table: Annotated[Path | None, "measure nothing: print this result as Markdown"] = None


@contextmanager
def served(traffic: Traffic, cores: str) -> Iterator[tuple[RunningService, Path]]:
    """The service with the first version of every task."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "served"
        root.mkdir()
        for versions in traffic.versions.values():
            put_adapter(versions[0], root)
        # A page's bound, not the default's, which is a batch job's: what is accepted is answered soon under any load.
        options = ["--max-queue-s", "0.5", *(["--base", traffic.model] if traffic.model else [])]
        with running_service(root, Path(folder) / "log", *options, cores=cores) as service:
            yield service, root


def measure(options: Options, rows: ResultRows) -> dict[str, Any]:
    """All parts, one after the other: what a service does in ten minutes cannot be taken up in the middle."""
    if options.data is None:
        raise InputError("--data is needed: a folder with sst2/, trec/ and ag_news/.")
    with opened_base(options.model, options.shape) as base, tempfile.TemporaryDirectory() as folder:
        traffic = Traffic(Path(folder), options.data, base.path if options.shape else options.model)
        batches = multi_lora(traffic)
        _tell("batches", batches)
        judge = Judge(traffic, traffic.expected())
        with served(traffic, options.cores) as (service, root):

            def load(seconds: float, rate: float = 0.0, clients: int = 0, seed: int = 0) -> list[LoadAnswer]:
                load_spec = Load(
                    url=service.address,
                    requests=tuple(traffic.requests),
                    weights=tuple(traffic.weights),
                    seconds=seconds,
                    rate=rate,
                    clients=clients,
                    seed=seed,
                )
                return generate(load_spec, options.load_cores)

            load(10, clients=8)  # warm-up
            capacity = judge(load(30, clients=options.clients))["answered_per_s"]
            _tell("capacity, requests/s", capacity)
            calm = judge(load(60, rate=SHARE * capacity, seed=1))
            _tell("calm", calm)
            overloaded, recovery_s = overload(load, judge, OVER * capacity, SHARE * capacity, calm["latency_ms"]["p99"])
            _tell("overload", overloaded)
            with Churn(traffic, root) as churn, MemorySampler(service) as memory:
                answers = load(options.seconds, rate=SHARE * capacity, seed=3)
            long_load = judge(answers)
            long_load |= {"churn": dict(churn.done), "memory_bytes": memory.samples, "memory_growth": memory.growth()}
            metrics = service.http.get("/metrics").text.splitlines()
            long_load["metrics"] = [line for line in metrics if line.startswith(("fourshot_adapter", "fourshot_rest"))]
            _tell("long", {key: value for key, value in long_load.items() if key != "memory_bytes"})
    p99 = overloaded["latency_ms"]["p99"] / calm["latency_ms"]["p99"]
    return {
        "capacity_per_s": capacity,
        "calm": calm,
        "overload": overloaded,
        "long": long_load,
        "batches": batches,
        "targets": [
            at_most("wrong labels under load", "answers", long_load["wrong_labels"], 0),
            at_most("5xx, and other surprises", "answers", long_load["surprising_answers"], 0),
            at_most("growth of memory", "share", long_load["memory_growth"], GROWTH_GOAL),
            at_most("p99 of accepted requests at 5 times capacity, against 0.7", "times", p99, OVERLOAD_P99_GOAL),
            at_most("recovery after it", "s", recovery_s, RECOVERY_GOAL_S),
            *batch_targets(batches),
        ],
    }


def overload(
    load: Any, judge: Judge, rate: float, calm_rate: float, calm_p99_ms: float
) -> tuple[dict[str, Any], float]:
    """What is answered at ``rate``, and after how many seconds at the rate ``calm_rate`` it is calm again."""
    answers = load(20, rate=rate, seed=2)
    ended = time.monotonic()
    calm_answers = load(20, rate=calm_rate, seed=4)
    delay_s = time.monotonic() - ended - 20  # the generator's own start
    slow = [
        answer.due_s
        for answer in calm_answers
        if (answer.status not in (200, 404, 400) or answer.latency_s * 1000 > calm_p99_ms * 2)
        and judge.is_stable(answer)
    ]
    return judge(answers), max(slow, default=0.0) + max(0.0, min(delay_s, 1.0))


def report(result: Mapping[str, Any]) -> list[Part]:
    """The loads, and the price of many adapters in a batch; for docs/serving.md."""
    long_load = result["long"]
    loads = {
        f"0.7 of capacity ({result['capacity_per_s']:.0f}/s), 60 s": result["calm"],
        "5 times capacity, 20 s": result["overload"],
        f"0.7 of capacity, {result['settings']['seconds']:.0f} s, adapters coming and going": long_load,
    }
    columns: dict[str, Any] = {
        "load": lambda load: load[0],
        "answered/s": lambda load: f"{load[1]['answered_per_s']:.1f}",
        "rejected (429)": lambda load: f"{load[1]['codes'].get('good 429', 0)} of {load[1]['requests']}",
        **{f"{p} ms": lambda load, p=p: f"{load[1]['latency_ms'][p]:.0f}" for p in ("p50", "p95", "p99")},
        "wrong labels": lambda load: f"{load[1]['wrong_labels']} of {load[1]['compared_labels']}",
        "surprises": lambda load: load[1]["surprising_answers"],
    }
    churn = ", ".join(f"{number} {action}" for action, number in sorted(long_load["churn"].items()))
    note = (
        f"In the long one: adapters {churn}; memory grew by {100 * long_load['memory_growth']:.1f} % from its second "
        "quarter to its last."
    )
    prices = {
        "texts in a batch": "{texts}",
        "base, ms per text": "{ms_per_text[base]:.1f}",
        "one adapter": "{ms_per_text[one]:.1f}",
        f"{result['batches'][0]['adapters']} adapters": "{ms_per_text[several]:.1f}",
        "relative to the base": "{ratio:.2f}",
    }
    return [TablePart.of(loads.items(), columns, note=note), TablePart.of(result["batches"], prices, left=0)]


class ServingSuite(Suite, frozen=True, kw_only=True):
    """With --table, prints a result that is there."""

    def run(self, name: str, options: Options) -> int:
        if not options.table:
            return super().run(name, options)
        print(self.markdown(read_result(options.table, name)))
        return 0


def _tell(name: str, value: Any) -> None:
    tell(f"{name}: {json.dumps(value)}")


SUITE = ServingSuite(
    options=Options,
    settings=lambda options: {
        "tasks": TASKS,
        "adapters": "random weights, rank 8, all projections",
        "zipf": ZIPF,
        "bad_share": BAD_SHARE,
        "churn_every_s": CHURN_S,
        "seconds": options.seconds,
        "service_cores": options.cores,
        "load_cores": options.load_cores,
    },
    tasks=lambda options: SOURCES,
    measure=measure,
    report=report,
)

"""The service under load: a long mixed load with changing adapters, an overload of five times the capacity, and the
cost of many adapters in one batch.

    fourshot bench serving --data FOLDER --out bench/results/serving-<hardware>.json

`FOLDER` has sst2/, trec/ and ag_news/. Each of ten tasks has two adapters with random weights, because the cost of
serving does not depend on the weights. A separate engine predicts each adapter's labels beforehand. The load generator
is a separate process, on its own cores (--load-cores). Every response is checked against the predictions.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.load import Load, LoadAnswer, generate
from fourshot.bench.core.options import JsonOut, Model, Positive, Shape, ThreeTasks
from fourshot.bench.core.parts import Part, TablePart, Target, at_most
from fourshot.bench.core.results import FinishedPieces, show_progress
from fourshot.bench.core.roofline import opened_base
from fourshot.bench.core.suite import Suite
from fourshot.bench.suites.serving.traffic import (
    CHURN_S,
    SETTINGS,
    SOURCES,
    Churn,
    Judge,
    Traffic,
    every,
    memory_growth,
    put_adapter,
)
from fourshot.engine.core import Adapter, EngineSettings
from fourshot.engine.opening import open_engine
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.serving.testing.server import RunningService, running_service

SHARE, OVER = 0.7, 5.0  # loads relative to capacity
MEMORY_S = 2.0  # interval of measuring the memory of all the service's processes
OVERLOAD_P99_GOAL, GROWTH_GOAL, RECOVERY_GOAL_S = 2.0, 0.05, 5.0
BATCH_SIZES, BATCH_ADAPTERS, BATCH_REPEATS = (8, 32, 128), 8, 9
BATCH_GOAL = 1.25  # times the base model's time, for a batch of any of these sizes


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: ThreeTasks
    model: Model = None
    shape: Shape = None
    seconds: Annotated[float, msgspec.Meta(ge=20), "of the long load, at least 20: memory is looked at every 2"] = 600
    clients: Annotated[Positive, "that measure the capacity"] = 16
    cores: Annotated[str, "of the service, as taskset names them"] = ""
    load_cores: Annotated[str, "of the load generator"] = ""
    out: JsonOut = None


@contextmanager
def served(traffic: Traffic, cores: str) -> Iterator[tuple[RunningService, Path]]:
    """Start the service with the first version of every task. Yield it and its folder of adapters."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "served"
        root.mkdir()
        for versions in traffic.versions.values():
            put_adapter(versions[0], root)
        # A limit for interactive use instead of the default for batch jobs: accepted requests are answered soon.
        options = ["--max-queue-s", "0.5", *(["--base", traffic.model] if traffic.model else [])]
        with running_service(root, Path(folder) / "log", *options, cores=cores) as service:
            yield service, root


def multi_lora(traffic: Traffic) -> list[dict[str, Any]]:
    """Time batches for the base model, for one adapter and for several, in turn, in an engine in this process.

    Prompts have no filler, so all three compute the same tokens; with filler, each adapter would have its own prefix.
    Returns a row per batch size, with milliseconds per text and ratios to the base.
    """
    task = traffic.tasks[0]
    texts = [text for name, task_texts in traffic.texts.items() if name.startswith("sst2") for text in task_texts]
    folders = [folder for versions in traffic.versions.values() for folder in versions][:BATCH_ADAPTERS]
    adapters = [Adapter(name=folder.name, path=str(folder)) for folder in folders]
    settings = EngineSettings(
        model=traffic.base.path, max_loras=BATCH_ADAPTERS, compile=False, kv_cache_bytes=512 << 20
    )
    rows = []
    with closing(open_engine(settings)) as engine:
        for size in BATCH_SIZES:
            prompts = [classification_prompt(task, texts[n % len(texts)], PromptFormat()) for n in range(size)]
            mixes: dict[str, list[Adapter | None]] = {
                "base": [None] * size,
                "one": [adapters[0]] * size,
                "several": [adapters[n % BATCH_ADAPTERS] for n in range(size)],
            }
            spent: dict[str, list[float]] = {name: [] for name in mixes}
            for turn in range(BATCH_REPEATS + 1):
                for name, mix in mixes.items():
                    engine.reset_prefix_cache()
                    started = time.perf_counter()
                    engine.score(prompts, task.label_words, mix)
                    if turn:  # the first one loads adapters and compiles kernels
                        spent[name].append(time.perf_counter() - started)
            to_base = {
                name: median(mix_s / base for mix_s, base in zip(spent[name], spent["base"], strict=True))
                for name in ("one", "several")
            }
            ms_per_text = {name: 1000 * median(times) / size for name, times in spent.items()}
            row = {"texts": size, "adapters": BATCH_ADAPTERS, "ms_per_text": ms_per_text}
            rows.append({**row, "ratio_one": to_base["one"], "ratio": to_base["several"]})
    return rows


def batch_targets(batches: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Return a target for each batch size of `multi_lora`."""
    name = "{adapters} adapters in a batch of {texts}, against the base"
    return [at_most(name.format_map(batch), "times", batch["ratio"], BATCH_GOAL) for batch in batches]


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Measure all parts; ``done`` is unused, as a load cannot be resumed."""
    with opened_base(options.model, options.shape) as base, tempfile.TemporaryDirectory() as folder:
        traffic = Traffic(Path(folder), options.data, base.path if options.shape else options.model)
        batches = multi_lora(traffic)
        _show("batches", batches)
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
            _show("capacity, requests/s", capacity)
            calm = judge(load(60, rate=SHARE * capacity, seed=1))
            _show("calm", calm)
            overloaded, recovery_s = overload(load, judge, OVER * capacity, SHARE * capacity, calm["latency_ms"]["p99"])
            _show("overload", overloaded)
            churn, samples, began = Churn(traffic, root), list[tuple[float, int]](), time.monotonic()

            def sample_memory() -> None:
                samples.append((time.monotonic() - began, service.memory_bytes()))

            with every(CHURN_S, churn.step), every(MEMORY_S, sample_memory):
                answers = load(options.seconds, rate=SHARE * capacity, seed=3)
            long_load = judge(answers)
            long_load |= {"churn": dict(churn.done), "memory_bytes": samples, "memory_growth": memory_growth(samples)}
            metrics = service.http.get("/metrics").text.splitlines()
            long_load["metrics"] = [line for line in metrics if line.startswith(("fourshot_adapter", "fourshot_rest"))]
            _show("long", {key: value for key, value in long_load.items() if key != "memory_bytes"})
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
    """Overload at ``rate``, then continue at ``calm_rate``. Return the overload's result and the seconds to recover."""
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
    """Return a table of the loads, and one of the cost of many adapters in a batch, for docs/serving.md."""
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


def _show(name: str, value: Any) -> None:
    show_progress(f"{name}: {json.dumps(value)}")


SUITE = Suite(
    options=Options,
    settings=lambda options: {
        **SETTINGS,
        "seconds": options.seconds,
        "service_cores": options.cores,
        "load_cores": options.load_cores,
    },
    tasks=lambda options: SOURCES,
    measure=measure,
    report=report,
)

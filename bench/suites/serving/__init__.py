"""The service under load: a long mixed one with adapters coming and going, one of five times what it can do, and the
price of many adapters in one batch.

    fourshot bench serving --data FOLDER --out bench/results/serving-<hardware>.json

`FOLDER` has sst2/, trec/ and ag_news/. Ten tasks, each with two versions of random weights: what serving costs does not
depend on what an adapter has learnt, and what each version answers was asked of an engine of our own beforehand. The
load generator is a process of its own, on cores of its own (--load-cores). Every answer is compared.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from fourshot.bench.core.load import Plan, Row, Shot, generate, percentile
from fourshot.bench.suites.serving.scene import (
    BAD_SHARE,
    CHURN_S,
    STABLE,
    TASKS,
    ZIPF,
    Churn,
    Expected,
    Memory,
    Scene,
    put,
)
from fourshot.serving.testing.server import RunningService, running_service

SCHEMA = 1
SHARE, OVER = 0.7, 5.0  # of capacity
BATCH_SIZES, BATCH_ADAPTERS, BATCH_REPEATS = (8, 32, 128), 8, 9
OVERLOAD_P99_GOAL, MULTI_GOAL, GROWTH_GOAL, RECOVERY_GOAL_S = 2.0, 1.3, 0.05, 5.0


def judge(rows: Sequence[Row], shots: Sequence[Shot], expected: Expected, stable: set[str]) -> dict[str, Any]:
    """What the answers of a load were worth."""
    codes: Counter[str] = Counter()
    wrong, surprising = [], []
    compared, good = 0, []
    for row in rows:
        shot = shots[row.shot]
        codes[f"{'bad' if shot.kind == 'bad' else 'good'} {row.status}"] += 1
        if shot.kind == "bad":
            if not 400 <= row.status < 500:
                surprising.append((shot.path, row.status, row.answer[:200]))
            continue
        if row.status == 200:
            good.append(row.latency_s)
            answer = json.loads(row.answer)
            label = expected[answer["adapter"]][json.loads(shot.body)["input"]]
            compared += bool(label)
            if label and answer["results"][0]["label"] != label:
                wrong.append((shot.kind, answer["adapter"], shot.body[:100]))
        elif row.status not in (429,) and not (row.status == 404 and shot.kind not in stable):
            surprising.append((shot.path, row.status, row.answer[:200]))
    return {
        "requests": len(rows),
        "codes": dict(sorted(codes.items())),
        "compared_labels": compared,
        "wrong_labels": len(wrong),
        "surprising_answers": len(surprising),
        "examples": [*wrong[:5], *surprising[:5]],
        "answered_per_s": len(good) / max(row.done_s for row in rows),
        "latency_ms": {f"p{share:g}": 1000 * percentile(good, share / 100) for share in (50, 95, 99, 99.9)}
        if good
        else {},
    }


@contextmanager
def served(scene: Scene, cores: str) -> Iterator[tuple[RunningService, Path]]:
    """The service with the first version of every task."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "served"
        root.mkdir()
        for versions in scene.versions.values():
            put(versions[0], root)
        options = ["--base", scene.model] if scene.model else []
        with running_service(root, Path(folder) / "log", *options, cores=cores) as service:
            yield service, root


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All parts; each is told on standard error as it ends."""
    from fourshot.pipeline.provenance import describe_hardware, installed_versions, source_commit

    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), options.data, options.model)
        batches = multi_lora(scene)
        _tell("batches", batches)
        expected = scene.expected()
        shots, weights = scene.shots()
        stable = {task.name for task in scene.tasks[:STABLE]}
        with served(scene, options.cores) as (service, root):

            def load(seconds: float, rate: float = 0.0, clients: int = 0, seed: int = 0) -> list[Row]:
                plan = Plan(
                    url=service.address,
                    shots=tuple(shots),
                    weights=tuple(weights),
                    seconds=seconds,
                    rate=rate,
                    clients=clients,
                    seed=seed,
                )
                return generate(plan, options.load_cores)

            load(10, clients=8)  # warm-up
            capacity = judge(load(30, clients=options.clients), shots, expected, stable)["answered_per_s"]
            _tell("capacity, requests/s", capacity)
            calm = judge(load(60, rate=SHARE * capacity, seed=1), shots, expected, stable)
            _tell("calm", calm)
            over, recovery_s = overload(load, OVER * capacity, SHARE * capacity, shots, expected, stable, calm)
            _tell("overload", over)
            churn, memory = Churn(scene, root), Memory(service)
            churn.start()
            memory.start()
            long = judge(load(options.seconds, rate=SHARE * capacity, seed=3), shots, expected, stable)
            churn.stop()
            memory.stop()
            long |= {"churn": dict(churn.done), "memory_bytes": memory.samples, "memory_growth": memory.growth()}
            metrics = httpx.get(f"{service.address}/metrics").text
            long["metrics"] = [
                line for line in metrics.splitlines() if line.startswith(("fourshot_adapter", "fourshot_rest"))
            ]
            _tell("long", {key: value for key, value in long.items() if key != "memory_bytes"})
    p99 = "p99"
    worst = max(row["ratio"] for row in batches)
    return {
        "schema": SCHEMA,
        "suite": "serving",
        "commit": source_commit(),
        "hardware": describe_hardware(),
        "versions": {"python": platform.python_version(), **installed_versions()},
        "settings": {
            "model": scene.base.name,
            "tasks": TASKS,
            "adapters": "random weights, rank 8, all projections",
            "zipf": ZIPF,
            "bad_share": BAD_SHARE,
            "churn_every_s": CHURN_S,
            "seconds": options.seconds,
            "service_cores": options.cores,
            "load_cores": options.load_cores,
        },
        "capacity_per_s": capacity,
        "calm": calm,
        "overload": over,
        "long": long,
        "batches": batches,
        "targets": [
            _target("wrong labels under load", "answers", long["wrong_labels"], 0, long["wrong_labels"] == 0),
            _target(
                "5xx, and other surprises", "answers", long["surprising_answers"], 0, not long["surprising_answers"]
            ),
            _target(
                "growth of memory", "share", long["memory_growth"], GROWTH_GOAL, long["memory_growth"] < GROWTH_GOAL
            ),
            _target(
                "p99 of accepted requests at 5 times capacity, against 0.7",
                "times",
                over["latency_ms"][p99] / calm["latency_ms"][p99],
                OVERLOAD_P99_GOAL,
                over["latency_ms"][p99] <= OVERLOAD_P99_GOAL * calm["latency_ms"][p99],
            ),
            _target("recovery after it", "s", recovery_s, RECOVERY_GOAL_S, recovery_s <= RECOVERY_GOAL_S),
            _target(
                f"{BATCH_ADAPTERS} adapters in a batch, against the base",
                "times",
                worst,
                MULTI_GOAL,
                worst <= MULTI_GOAL,
            ),
        ],
    }


def overload(
    load: Any,
    rate: float,
    after: float,
    shots: Sequence[Shot],
    expected: Expected,
    stable: set[str],
    calm: dict[str, Any],
) -> tuple[dict[str, Any], float]:
    """What is answered at ``rate``, and after how many seconds at the calm rate ``after`` it is calm again."""
    rows = load(20, rate=rate, seed=2)
    ended = time.monotonic()
    then = load(20, rate=after, seed=4)
    late = time.monotonic() - ended - 20  # the generator's own start
    slow = [
        row for row in then if row.status not in (200, 404, 400) or row.latency_s * 1000 > calm["latency_ms"]["p99"] * 2
    ]
    recovery_s = max((row.due_s for row in slow if shots[row.shot].kind in stable), default=0.0) + max(
        0.0, min(late, 1.0)
    )
    return judge(rows, shots, expected, stable), recovery_s


def multi_lora(scene: Scene) -> list[dict[str, Any]]:
    """Time of a batch of the base alone, of one adapter, and of several, in turn, in an engine of our own."""
    from fourshot.engine.core import Adapter, EngineSettings
    from fourshot.engine.opening import open_engine
    from fourshot.pipeline.synthesis.prompts import classification_prompt

    task = scene.tasks[0]
    texts = [text for one in scene.tasks if one.name.startswith("sst2") for text in scene.texts[one.name]]
    adapters = [Adapter(name=folder.name, path=str(folder)) for one in scene.versions.values() for folder in one][
        :BATCH_ADAPTERS
    ]
    engine = open_engine(
        EngineSettings(model=scene.base.path, max_loras=BATCH_ADAPTERS, compile=False, kv_cache_bytes=512 << 20)
    )
    rows = []
    try:
        for size in BATCH_SIZES:
            prompts = [classification_prompt(task, texts[n % len(texts)]) for n in range(size)]
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
                    if turn:  # the first loads adapters and builds kernels
                        spent[name].append(time.perf_counter() - started)
            pairs = list(zip(spent["base"], spent["one"], spent["several"], strict=True))
            rows.append(
                {
                    "texts": size,
                    "adapters": BATCH_ADAPTERS,
                    "ms_per_text": {name: 1000 * median(times) / size for name, times in spent.items()},
                    "ratio_one": median(one / base for base, one, _ in pairs),
                    "ratio": median(several / base for base, _, several in pairs),
                }
            )
    finally:
        engine.close()
    return rows


def table(result: dict[str, Any]) -> str:
    """The result as Markdown, for docs/serving.md."""

    def row(name: str, part: dict[str, Any]) -> str:
        codes, latency = part["codes"], part["latency_ms"]
        return (
            f"| {name} | {part['answered_per_s']:.1f} | {codes.get('good 429', 0)} of {part['requests']} | "
            f"{latency['p50']:.0f} | {latency['p95']:.0f} | {latency['p99']:.0f} | "
            f"{part['wrong_labels']} of {part['compared_labels']} | {part['surprising_answers']} |"
        )

    long, settings = result["long"], result["settings"]
    done = ", ".join(f"{number} {what}" for what, number in sorted(long["churn"].items()))
    batches = [
        f"| {one['texts']} | {one['ms_per_text']['base']:.1f} | {one['ms_per_text']['one']:.1f} | "
        f"{one['ms_per_text']['several']:.1f} | {one['ratio']:.2f} |"
        for one in result["batches"]
    ]
    lines = [
        "| load | answered/s | told to come back | p50 ms | p95 ms | p99 ms | wrong labels | surprises |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        row(f"0.7 of capacity ({result['capacity_per_s']:.0f}/s), 60 s", result["calm"]),
        row("5 times capacity, 20 s", result["overload"]),
        row(f"0.7 of capacity, {settings['seconds']:.0f} s, adapters coming and going", long),
        "",
        f"In the long one: adapters {done}; memory grew by {100 * long['memory_growth']:.1f} % from its second "
        "quarter to its last.",
        "",
        f"| texts in a batch | base, ms per text | one adapter | {result['batches'][0]['adapters']} adapters | "
        "against the base |",
        "| ---: | ---: | ---: | ---: | ---: |",
        *batches,
        "",
        *(
            f"- {one['name']}: {one['measured']:g} {one['unit']}, at most {one['goal']:g} wanted, "
            f"{'met' if one['met'] else '**not met**'}"
            for one in result["targets"]
        ),
    ]
    return "\n".join(lines) + "\n"


def _target(name: str, unit: str, measured: float, goal: float, met: bool) -> dict[str, Any]:
    return {"name": name, "unit": unit, "measured": round(measured, 3), "goal": goal, "met": met}


def _tell(name: str, value: Any) -> None:
    print(f"{name}: {json.dumps(value)}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with sst2/, trec/ and ag_news/")
    parser.add_argument("--model", help="base model; the embedded one if left out")
    parser.add_argument("--seconds", type=float, default=600, help="of the long load (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="that measure the capacity (default: %(default)s)")
    parser.add_argument("--cores", default="", help="of the service, as taskset names them")
    parser.add_argument("--load-cores", default="", help="of the load generator")
    parser.add_argument("--out", type=Path, help="where the JSON goes; without it, standard output")
    parser.add_argument("--table", type=Path, help="measure nothing: print this result as Markdown")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text(encoding="utf-8"))), end="")
        return
    if options.data is None:
        parser.error("--data is needed: a folder with sst2/, trec/ and ag_news/")
    text = json.dumps(measure(options), indent=1) + "\n"
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()

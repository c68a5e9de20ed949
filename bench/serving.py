"""The service under load: a long mixed one with adapters coming and going, one of five times what it can do, and the
price of many adapters in one batch.

    fourshot bench serving --data FOLDER --out bench/results/serving-<hardware>.json

`FOLDER` has sst2/, trec/ and ag_news/. Ten tasks, each with two versions of random weights: what serving costs does not
depend on what an adapter has learnt, and what each version answers was asked of an engine of our own beforehand. The
load generator is a process of its own, on cores of its own (--load-cores). Every answer is compared.
"""

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from bench.load import Plan, Row, Shot, generate, percentile
from bench.random_adapters import make_adapter
from bench.running import Running, running
from pipeline.nouns import Task

SCHEMA = 1
TASKS, VERSIONS, TEXTS = 10, 2, 40
STABLE = 7  # tasks that always have a version; the others come and go
ZIPF = 1.1
MARGIN = 0.1  # where the two likeliest labels are nearer, rounding may decide between them
SHARE, OVER = 0.7, 5.0  # of capacity
CHURN_S, BAD_SHARE = 3.0, 0.05
BATCH_SIZES, BATCH_ADAPTERS, BATCH_REPEATS = (8, 32, 128), 8, 9
OVERLOAD_P99_GOAL, MULTI_GOAL, GROWTH_GOAL, RECOVERY_GOAL_S = 2.0, 1.3, 0.05, 5.0
BAD = (
    ("/v1/classify/nothing", '{"input": "x"}'),
    ("/v1/classify/..%2f..%2fetc", '{"input": "x"}'),
    ("/v1/classify/{task}", '{"input": '),
    ("/v1/classify/{task}", "[" * 5000),
    ("/v1/classify/{task}", '{"input": ["", "x"]}'),
    ("/v1/classify/{task}", '{"input": "x", "adapter": "/etc"}'),
    ("/v1/completions", '{"model": "../../x", "prompt": "x", "max_tokens": 1}'),
)

Expected = dict[str, dict[str, str]]  # adapter name -> text -> its label, "" where it is too near a call


class Scene:
    """Tasks, their texts, their versions' folders, and what each version answers."""

    def __init__(self, root: Path, data: Path, model: str | None) -> None:
        from engine.models import resolve_model
        from pipeline.tables import load_split
        from pipeline.taskfile import load_task

        self.base = resolve_model(model)
        self.model = model
        sources = [load_task(name, data / name) for name in ("sst2", "trec", "ag_news")]
        self.tasks: list[Task] = []
        self.texts: dict[str, list[str]] = {}
        self.versions: dict[str, list[Path]] = {}
        for number in range(TASKS):
            source = sources[number % len(sources)]
            task = _renamed(source, f"{source.name}-{number}")
            texts = [one.text for one in load_split(source, "test").examples]
            self.tasks.append(task)
            self.texts[task.name] = texts[number * TEXTS : (number + 1) * TEXTS]
            self.versions[task.name] = [
                make_adapter(root, task, seed=number * VERSIONS + version, base=self.base)
                for version in range(VERSIONS)
            ]

    def expected(self) -> Expected:
        """Asked of an engine of our own, one version after the other."""
        from engine.core import Adapter, EngineSettings
        from engine.opening import open_engine
        from pipeline.prompts import classification_prompt

        engine = open_engine(EngineSettings(model=self.base.path, max_loras=1, compile=False, kv_cache_bytes=256 << 20))
        found: Expected = {}
        try:
            for task in self.tasks:
                prompts = [classification_prompt(task, text) for text in self.texts[task.name]]
                for folder in self.versions[task.name]:
                    adapter = Adapter(name=folder.name, path=str(folder))
                    scores = engine.score(prompts, task.label_words, adapter)
                    found[folder.name] = {
                        text: _decided(task.label_names, row)
                        for text, row in zip(self.texts[task.name], scores, strict=True)
                    }
        finally:
            engine.close()
        return found

    def shots(self) -> tuple[list[Shot], list[float]]:
        """Good requests, the tasks by Zipf's law, and a few bad ones; with their weights."""
        shots, weights = [], []
        for rank, task in enumerate(self.tasks, start=1):
            for text in self.texts[task.name]:
                shots.append(Shot(kind=task.name, path=f"/v1/classify/{task.name}", body=json.dumps({"input": text})))
                weights.append(rank**-ZIPF)
        good = sum(weights)
        for path, body in BAD:
            shots.append(Shot(kind="bad", path=path.format(task=self.tasks[0].name), body=body))
            weights.append(good * BAD_SHARE / (1 - BAD_SHARE) / len(BAD))
        return shots, weights


def _renamed(task: Task, name: str) -> Task:
    import msgspec

    return msgspec.structs.replace(task, name=name)


def _decided(names: Sequence[str], scores: Any) -> str:
    import numpy as np

    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    first, second = sorted(shares)[-1:-3:-1]
    return names[int(scores.argmax())] if first - second > MARGIN else ""


class Churn(threading.Thread):
    """Adds, replaces and removes adapters, and leaves broken ones about, until it is told to stop."""

    def __init__(self, scene: Scene, served: Path) -> None:
        super().__init__(daemon=True)
        self._scene, self._served, self._over = scene, served, threading.Event()
        self._draw = random.Random(0)
        self.done: Counter[str] = Counter()

    def run(self) -> None:
        while not self._over.wait(CHURN_S):
            task = self._draw.choice(self._scene.tasks).name
            others = self._scene.versions[task]
            there = [folder for folder in others if (self._served / folder.name).exists()]
            new = self._draw.choice(others)
            if self._draw.random() < 0.2:
                self._break(new)
            if new not in there:
                put(new, self._served)
                self.done["added" if not there else "replaced"] += 1
            elif len(there) > 1 or task not in {one.name for one in self._scene.tasks[:STABLE]}:
                shutil.rmtree(self._served / new.name)
                self.done["removed"] += 1

    def _break(self, folder: Path) -> None:
        broken = self._served / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(folder, broken)
        os.truncate(broken / "adapter_model.safetensors", self._draw.randrange(1, 100_000))
        self.done["broken"] += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


def put(folder: Path, served: Path) -> None:
    """Copy an adapter into the served folder, whole at once, as the newest of its task."""
    making = served / f".making-{folder.name}"
    shutil.copytree(folder, making)
    os.utime(making / "card.json")
    os.rename(making, served / folder.name)


class Memory(threading.Thread):
    """Samples the service's memory, all its processes together."""

    def __init__(self, service: Running, every_s: float = 2.0) -> None:
        super().__init__(daemon=True)
        self._service, self._every_s, self._over = service, every_s, threading.Event()
        self.samples: list[tuple[float, int]] = []  # seconds, bytes

    def run(self) -> None:
        began = time.monotonic()
        while not self._over.wait(self._every_s):
            self.samples.append((time.monotonic() - began, self._service.memory_bytes()))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def growth(self) -> float:
        """From the second to the last quarter, as a share: the first quarter fills caches."""
        quarter = len(self.samples) // 4
        second = median(size for _, size in self.samples[quarter : 2 * quarter])
        last = median(size for _, size in self.samples[3 * quarter :])
        return last / second - 1


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
def served(scene: Scene, cores: str) -> Iterator[tuple[Running, Path]]:
    """The service with the first version of every task."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "served"
        root.mkdir()
        for versions in scene.versions.values():
            put(versions[0], root)
        options = ["--base", scene.model] if scene.model else []
        with running(root, Path(folder) / "log", *options, cores=cores) as service:
            yield service, root


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All parts; each is told on standard error as it ends."""
    from pipeline.hardware import describe_hardware, source_commit
    from pipeline.runfolder import installed_versions

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
    from engine.core import Adapter, EngineSettings
    from engine.opening import open_engine
    from pipeline.prompts import classification_prompt

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


def _target(name: str, unit: str, measured: float, goal: float, met: bool) -> dict[str, Any]:
    return {"name": name, "unit": unit, "measured": round(measured, 3), "goal": goal, "met": met}


def _tell(name: str, value: Any) -> None:
    print(f"{name}: {json.dumps(value)}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with sst2/, trec/ and ag_news/")
    parser.add_argument("--model", help="base model; the embedded one if left out")
    parser.add_argument("--seconds", type=float, default=600, help="of the long load (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="that measure the capacity (default: %(default)s)")
    parser.add_argument("--cores", default="", help="of the service, as taskset names them")
    parser.add_argument("--load-cores", default="", help="of the load generator")
    parser.add_argument("--out", type=Path, help="where the JSON goes; without it, standard output")
    options = parser.parse_args()
    text = json.dumps(measure(options), indent=1) + "\n"
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()

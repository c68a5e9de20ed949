"""Traffic of the serving benchmark: ten tasks with two adapters each, valid and invalid requests, changing adapters,
and the check of the responses."""

import json
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from scipy.special import softmax  # type: ignore[import-untyped]

from fourshot.bench.core.load import LoadAnswer, LoadRequest
from fourshot.bench.core.statistics import percentile
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.core import Adapter, EngineSettings
from fourshot.engine.opening import open_engine
from fourshot.pipeline.card import load_card
from fourshot.pipeline.rows.examples import load_split
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.serving.testing.adapters import make_adapter

SOURCES = ("sst2", "trec", "ag_news")
TASKS, VERSIONS, TEXTS = 10, 2, 40
STABLE = 7  # tasks that always have an adapter; the others may lose theirs
ZIPF = 1.1
MARGIN = 0.1  # least difference in probability of the two likeliest labels; below, rounding may decide
CHURN_S, BAD_SHARE = 3.0, 0.05
BAD = (
    ("/v1/classify/nothing", '{"input": "x"}'),
    ("/v1/classify/..%2f..%2fetc", '{"input": "x"}'),
    ("/v1/classify/{task}", '{"input": '),
    ("/v1/classify/{task}", "[" * 5000),
    ("/v1/classify/{task}", '{"input": ["", "x"]}'),
    ("/v1/classify/{task}", '{"input": "x", "adapter": "/etc"}'),
    ("/v1/completions", '{"model": "../../x", "prompt": "x", "max_tokens": 1}'),
)


SETTINGS = {
    "tasks": TASKS,
    "adapters": "random weights, rank 8, all projections",
    "zipf": ZIPF,
    "bad_share": BAD_SHARE,
    "churn_every_s": CHURN_S,
}

Expected = dict[str, dict[str, str]]  # adapter name -> text -> label, "" if the probabilities are too close


class Traffic:
    """The tasks with their texts, the folders of their adapters ("versions"), and the weighted requests."""

    def __init__(self, root: Path, data: Path, model: str | None) -> None:
        self.base = resolve_model(model)
        self.model = model
        sources = [load_task(name, data / name) for name in SOURCES]
        self.tasks: list[Task] = []
        self.requests: list[LoadRequest] = []
        self.weights: list[float] = []
        self.texts: dict[str, list[str]] = {}
        self.versions: dict[str, list[Path]] = {}
        for number in range(TASKS):
            source = sources[number % len(sources)]
            task = msgspec.structs.replace(source, name=f"{source.name}-{number}")
            texts = [example.text for example in load_split(source, "test").examples]
            self.tasks.append(task)
            self.texts[task.name] = texts[number * TEXTS : (number + 1) * TEXTS]
            self.versions[task.name] = [
                make_adapter(root, task, seed=number * VERSIONS + version, base=self.base)
                for version in range(VERSIONS)
            ]
        for rank, task in enumerate(self.tasks, start=1):  # by Zipf's law
            for text in self.texts[task.name]:
                body = json.dumps({"input": text})
                self.requests.append(LoadRequest(kind=task.name, path=f"/v1/classify/{task.name}", body=body))
                self.weights.append(rank**-ZIPF)
        bad_weight = sum(self.weights) * BAD_SHARE / (1 - BAD_SHARE) / len(BAD)
        for path, body in BAD:
            self.requests.append(LoadRequest(kind="bad", path=path.format(task=self.tasks[0].name), body=body))
            self.weights.append(bad_weight)

    def expected(self) -> Expected:
        """Predict all labels with an engine in this process, one adapter after the other."""
        settings = EngineSettings(model=self.base.path, max_loras=1, compile=False, kv_cache_bytes=256 << 20)
        labels: Expected = {}
        with closing(open_engine(settings)) as engine:
            for task in self.tasks:
                for folder in self.versions[task.name]:
                    card = load_card(folder)
                    prompts = [card.prompt(text) for text in self.texts[task.name]]
                    adapter = Adapter(name=folder.name, path=str(folder))
                    scores = engine.score(prompts, task.label_words, adapter, card.verbalizer)
                    labels[folder.name] = {
                        text: _decided(task.label_names, row)
                        for text, row in zip(self.texts[task.name], scores, strict=True)
                    }
        return labels


def _decided(names: Sequence[str], scores: Any) -> str:
    second, first = sorted(softmax(scores))[-2:]
    return names[int(scores.argmax())] if first - second > MARGIN else ""


class Judge:
    """Checks the responses to a load: wrong labels, unexpected status codes, latencies."""

    def __init__(self, traffic: Traffic, expected: Expected) -> None:
        self._requests, self._expected = traffic.requests, expected
        self._stable = {task.name for task in traffic.tasks[:STABLE]}

    def is_stable(self, answer: LoadAnswer) -> bool:
        """Return whether the request was for a task that always has an adapter."""
        return self._requests[answer.request].kind in self._stable

    def __call__(self, answers: Sequence[LoadAnswer]) -> dict[str, Any]:
        codes: Counter[str] = Counter()
        wrong, surprising = [], []
        compared, latencies_s = 0, []
        for answer in answers:
            request = self._requests[answer.request]
            codes[f"{'bad' if request.kind == 'bad' else 'good'} {answer.status}"] += 1
            if request.kind == "bad":
                as_expected = 400 <= answer.status < 500
            elif answer.status == 200:
                as_expected = True
                latencies_s.append(answer.latency_s)
                body = json.loads(answer.answer)
                label = self._expected[body["adapter"]][json.loads(request.body)["input"]]
                compared += bool(label)
                if label and body["results"][0]["label"] != label:
                    wrong.append((request.kind, body["adapter"], request.body[:100]))
            else:
                as_expected = answer.status == 429 or (answer.status == 404 and not self.is_stable(answer))
            if not as_expected:
                surprising.append((request.path, answer.status, answer.answer[:200]))
        shares = (50, 95, 99, 99.9) if latencies_s else ()
        return {
            "requests": len(answers),
            "codes": dict(sorted(codes.items())),
            "compared_labels": compared,
            "wrong_labels": len(wrong),
            "surprising_answers": len(surprising),
            "examples": [*wrong[:5], *surprising[:5]],
            "answered_per_s": len(latencies_s) / max(answer.done_s for answer in answers),
            "latency_ms": {f"p{share:g}": 1000 * percentile(latencies_s, share / 100) for share in shares},
        }


@contextmanager
def every(seconds: float, step: Callable[[], None]) -> Iterator[None]:
    """Call ``step`` every ``seconds`` while the block runs. On leaving the block, exceptions of ``step`` are raised."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            step()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            yield
        finally:
            ended.set()
        running.result()


class Churn:
    """Adds, replaces and removes served adapters, and sometimes adds a broken one."""

    def __init__(self, traffic: Traffic, served: Path) -> None:
        self._traffic, self._served = traffic, served
        self._draw = random.Random(0)
        self.done: Counter[str] = Counter()

    def step(self) -> None:
        task = self._draw.choice(self._traffic.tasks).name
        versions = self._traffic.versions[task]
        present = [folder for folder in versions if (self._served / folder.name).exists()]
        new = self._draw.choice(versions)
        if self._draw.random() < 0.2:
            self._break(new)
        if new not in present:
            put_adapter(new, self._served)
            self.done["added" if not present else "replaced"] += 1
        elif len(present) > 1 or task not in {stable.name for stable in self._traffic.tasks[:STABLE]}:
            shutil.rmtree(self._served / new.name)
            self.done["removed"] += 1

    def _break(self, folder: Path) -> None:
        broken = self._served / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(folder, broken)
        os.truncate(broken / "adapter_model.safetensors", self._draw.randrange(1, 100_000))
        self.done["broken"] += 1


def put_adapter(folder: Path, served: Path) -> None:
    """Copy an adapter into the served folder atomically, as the newest of its task."""
    making = served / f".making-{folder.name}"
    shutil.copytree(folder, making)
    os.utime(making / "card.json")
    os.rename(making, served / folder.name)


def memory_growth(samples: Sequence[tuple[float, int]]) -> float:
    """Return the growth of memory from the second to the last quarter of ``samples``, as a share of the former.

    ``samples``: (seconds, bytes). The first quarter is ignored, because it fills caches.
    """
    quarter = len(samples) // 4
    second, last = (
        median(size for _, size in part) for part in (samples[quarter : 2 * quarter], samples[3 * quarter :])
    )
    return last / second - 1

"""The in-context filter with and without the prefix cache: 2,000 candidates annotated with all of a task's shots.

    fourshot bench filter --data FOLDER --out FILE.json

Needed tokens are those with which all prompts begin (filler, instruction, shots), once, and the others of each prompt.
Filler makes the shared tokens end at a block boundary of the cache. Computed tokens are counted by the engine.
"""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.closed_loop import CellMeasurement, CellRequests, EngineSpec, engines
from fourshot.bench.core.options import Model, Out, Positive, TaskFolders, as_settings
from fourshot.bench.core.parts import Part, TablePart, at_least
from fourshot.bench.core.results import FinishedPieces, path_beside
from fourshot.bench.core.suite import Suite
from fourshot.bench.core.workload import PromptRequest, Workload, load_workload
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import InputError
from fourshot.engine.tokens import encode_prompts, load_tokenizer

GOAL = 4.0
ENGINES = {"uncached": "cache off", "base": "cache on"}
KV_CACHE_BYTES, GPU_KV_CACHE_BYTES = 512 << 20, 8 << 30  # of each engine, as in the latency suite


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: TaskFolders
    out: Out
    task: str = "trec"
    shots: Annotated[Positive, "per class"] = 4
    candidates: Positive = 2000
    model: Model = None


def train_texts(workload: Workload, number: int) -> list[str]:
    """Return ``number`` distinct texts of the train split, as candidates, in a seeded order. The shots are excluded.

    Raises InputError if there are too few.
    """
    shot_texts = {shot.text for shot in workload.shots}
    pool = (example.text for examples in workload.train_by_label.values() for example in examples)
    texts = list(dict.fromkeys(text for text in pool if text not in shot_texts))
    if len(texts) < number:
        raise InputError(
            f"{workload.task.name} has {len(texts)} train texts, but {number} were asked for. Ask for fewer."
        )
    random.Random(0).shuffle(texts)
    return texts[:number]


def filter_requests(workload: Workload, texts: Sequence[str]) -> CellRequests:
    """Return the cell that annotates every text with all shots, all requests at once."""
    prompts = [workload.prompt(text, workload.shots) for text in texts]
    requests = tuple(PromptRequest(prompt=prompt) for prompt in prompts)
    return CellRequests(requests=requests, warmup=(), labels=workload.task.label_words, concurrency=0)


def measure_with_and_without_cache(model: str, requests: CellRequests, done: FinishedPieces, log: Path) -> None:
    """Measure ``requests`` with and without the prefix cache, as far as it is not ``done``."""
    if all(name in done.pieces for name in ENGINES):
        return
    plain = EngineSettings(
        model=model, kv_cache_bytes=KV_CACHE_BYTES, gpu_kv_cache_bytes=GPU_KV_CACHE_BYTES, compile=False
    )
    specs = {
        name: EngineSpec(settings=msgspec.structs.replace(plain, prefix_caching=name == "base")) for name in ENGINES
    }

    def read(engine: Any) -> CellMeasurement:
        return msgspec.structs.replace(engine.ask(requests), rows=())

    with engines(specs, log) as running:
        warmup = msgspec.structs.replace(requests, requests=requests.requests[-24:])
        for name in ENGINES:
            running[name].ask(warmup)  # compiles kernels
        for name in ENGINES:
            done.add_once(name, partial(read, running[name]), "{seconds:.1f} s")


def summarise(rows: Mapping[str, Any], candidates: int) -> dict[str, Any]:
    """Return the rows of `measure_with_and_without_cache` as the keys ``ways`` and ``targets`` of a result."""
    cells = {name: msgspec.convert(rows[name], CellMeasurement) for name in ENGINES}
    sides = [
        {
            "way": ENGINES[name],
            "seconds": cell.seconds,
            "candidates_per_s": candidates / cell.seconds,
            "computed_tokens": cell.prompt_tokens - cell.cached_tokens,
            "hit_rate": cell.cached_tokens / cell.prompt_tokens,
        }
        for name, cell in cells.items()
    ]
    gain = cells["uncached"].seconds / cells["base"].seconds
    return {"ways": sides, "targets": [at_least("filter with the prefix cache, against without", "times", gain, GOAL)]}


def needed_tokens(model: str, requests: CellRequests) -> dict[str, int]:
    """Count tokens: of the shared beginning, of all prompts, and those needed if the beginning is computed once."""
    ids = encode_prompts(load_tokenizer(model), [request.prompt for request in requests.requests])
    # In dictionary order, all lie between the least and the greatest, and so begin as these two do.
    beginning = len([*takewhile(lambda pair: pair[0] == pair[1], zip(min(ids), max(ids), strict=False))])
    prompts = sum(map(len, ids))
    return {"beginning": beginning, "prompts": prompts, "needed": prompts - beginning * (len(ids) - 1)}


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Measure both engines with the same candidates."""
    model = resolve_model(options.model)
    workload = load_workload(options.task, options.data, options.shots, model.path)
    requests = filter_requests(workload, train_texts(workload, options.candidates))
    measure_with_and_without_cache(model.path, requests, done, path_beside(options.out, ".log"))
    tokens = needed_tokens(model.path, requests)
    return {"tokens": tokens, **summarise(done.pieces, options.candidates)}


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return a table of computed tokens, relative to those needed."""
    settings, needed = result["settings"], result["tokens"]["needed"]
    about = f"{settings['task']}, {settings['k']} examples per class, {settings['candidates']:,} texts."
    columns: dict[str, Any] = {
        "": "{way}",
        "candidates/s": "{candidates_per_s:.1f}",
        "tokens computed": "{computed_tokens:,}",
        "of those needed": lambda row: f"{row['computed_tokens'] / needed:.2f} times",
        "hit rate": "{hit_rate:.3f}",
    }
    return [about, TablePart.of(result["ways"], columns)]


SUITE = Suite(
    options=Options,
    measure=measure,
    settings=lambda options: {"k": options.shots, **as_settings(options, "task", "candidates")},
    report=report,
)

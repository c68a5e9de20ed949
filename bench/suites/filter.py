"""The in-context filter with and without the prefix cache: 2,000 candidates read with all of a task's shots.

    fourshot bench filter --data FOLDER --out FILE.json

Needed are the tokens of the instruction and the shots once, and those of each candidate. Computed is what the engine's
own counters say. What lies between is the end of the shots' last block, which is computed for each candidate: the cache
keeps whole blocks.
"""

import argparse
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.closed_loop import CellMeasurement, CellRequests
from fourshot.bench.core.engines import Base, EngineSpec, engines
from fourshot.bench.core.old import (
    Rows,
    at_least,
    check_data,
    check_out,
    header,
    positive,
    target_lines,
    tell,
    write_json,
)
from fourshot.bench.core.workload import Request, Workload, load_workload
from fourshot.engine.errors import InputError
from fourshot.engine.models import resolve_model
from fourshot.engine.tokens import encode_prompts, load_tokenizer
from fourshot.pipeline.synthesis.prompts import classification_prompt

SCHEMA = 1
GOAL = 4.0
ENGINES = {"uncached": "cache off", "base": "cache on"}


def train_texts(stuff: Workload, candidates: int) -> list[str]:
    """Real texts of the train split that stand for candidates, in a seeded order, each once.

    Raises InputError where there are too few.
    """
    shown = {shot.text for shot in stuff.shots}
    texts = list(dict.fromkeys(one.text for pool in stuff.pools.values() for one in pool if one.text not in shown))
    if len(texts) < candidates:
        raise InputError(f"{stuff.task.name} has {len(texts)} train texts, {candidates} are asked for. Ask for fewer.")
    random.Random(0).shuffle(texts)
    return texts[:candidates]


def order_of(stuff: Workload, texts: Sequence[str]) -> CellRequests:
    """Every text read with all shots, all of them queued at once."""
    return CellRequests(
        requests=tuple(Request(prompt=classification_prompt(stuff.task, text, stuff.shots)) for text in texts),
        warmup=(),
        labels=stuff.task.label_words,
        concurrency=0,
    )


def read_both_ways(base: Base, order: CellRequests, rows: Rows, log: Path) -> None:
    """Both measurements of ``order``, as far as ``rows`` lacks them."""
    if all(name in rows.found for name in ENGINES):
        return
    plain = base.settings(kv_cache_mib=512, gpu_kv_cache_mib=8192, compile=False)
    uncached = msgspec.structs.replace(plain, prefix_caching=False)
    with engines({"base": EngineSpec(settings=plain), "uncached": EngineSpec(settings=uncached)}, log) as running:
        few = msgspec.structs.replace(order, requests=order.requests[-24:])
        for name in ENGINES:
            running[name].ask(few)  # kernels are built
        for name in ENGINES:
            if name not in rows.found:
                read = running[name].ask(order)
                rows.add(name, msgspec.to_builtins(msgspec.structs.replace(read, rows=())))
                tell(f"{ENGINES[name]}: {len(order.requests) / read.seconds:.1f} candidates/s")


def summarise(rows: Mapping[str, Any], candidates: int) -> dict[str, Any]:
    """What `read_both_ways` left, as the keys ``ways`` and ``targets`` of a result."""
    found = {name: msgspec.convert(rows[name], CellMeasurement) for name in ENGINES}
    ways = [
        {
            "way": ENGINES[name],
            "seconds": one.seconds,
            "candidates_per_s": candidates / one.seconds,
            "computed_tokens": one.prompt_tokens - one.cached_tokens,
            "hit_rate": one.cached_tokens / one.prompt_tokens,
        }
        for name, one in found.items()
    ]
    gain = found["uncached"].seconds / found["base"].seconds
    return {"ways": ways, "targets": [at_least("filter with the prefix cache, against without", "times", gain, GOAL)]}


def needed_tokens(model: str, stuff: Workload, order: CellRequests) -> dict[str, int]:
    """Tokens of the shared beginning, of all prompts together, and of those what cannot be shared."""
    tokenizer = load_tokenizer(model)
    shared = len(encode_prompts(tokenizer, [classification_prompt(stuff.task, "x", stuff.shots)])[0])
    alone = len(encode_prompts(tokenizer, [classification_prompt(stuff.task, "x")])[0])
    prompts = sum(len(ids) for ids in encode_prompts(tokenizer, [one.prompt for one in order.requests]))
    beginning = shared - alone + len(encode_prompts(tokenizer, [stuff.task.instruction])[0])
    return {"beginning": beginning, "prompts": prompts, "needed": prompts - beginning * (len(order.requests) - 1)}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is missing, and write everything."""
    check_out(options.out)
    check_data(options.data, [options.task])
    model = resolve_model(options.model)
    stuff = load_workload(options.task, options.data, options.shots)
    order = order_of(stuff, train_texts(stuff, options.candidates))
    told = {"task": options.task, "k": options.shots, "candidates": options.candidates, "model": model.name}
    rows = Rows(options.out.with_suffix(".rows.jsonl"), told)
    with tempfile.TemporaryDirectory() as folder:
        read_both_ways(Base(path=model.path, name=model.name), order, rows, Path(folder) / "log")
    result = {
        **header("filter", SCHEMA, told),
        "tokens": needed_tokens(model.path, stuff, order),
        **summarise(rows.found, options.candidates),
    }
    write_json(options.out, result)
    return result


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    needed = result["tokens"]["needed"]
    lines = ["| | candidates/s | tokens computed | of those needed | hit rate |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {one['way']} | {one['candidates_per_s']:.1f} | {one['computed_tokens']:,} | "
        f"{one['computed_tokens'] / needed:.2f} times | {one['hit_rate']:.3f} |"
        for one in result["ways"]
    ]
    return "\n".join([*lines, "", *target_lines(result)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder for the task")
    parser.add_argument("--out", type=Path, required=True, help="where the result goes; .rows.jsonl beside it")
    parser.add_argument("--task", default="trec", help="default: %(default)s")
    parser.add_argument("--shots", type=positive, default=4, metavar="K", help="per class (default: %(default)s)")
    parser.add_argument("--candidates", type=positive, default=2000, help="default: %(default)s")
    parser.add_argument("--model", help="base model; the embedded one if left out")
    print(table(run(parser.parse_args())))


if __name__ == "__main__":
    main()

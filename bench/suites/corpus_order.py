"""What the order of a corpus's units gains: tasks one after the other, as a corpus does it, or by turns.

    fourshot bench corpus-order --data FOLDER --out FILE.json

The same units, once in each order, for a memory of keys and values that holds the examples of all tasks and for one
that does not. The prefix cache answers what prompts have in common with those before; where memory is short it keeps
what was used last.
"""

import argparse
import queue
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

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
from fourshot.engine.core import EngineSettings, Sampling
from fourshot.engine.models import resolve_model
from fourshot.engine.opening import open_engine
from fourshot.pipeline.corpus.drawing import Inbox, work
from fourshot.pipeline.corpus.units import TaskBrief, Unit, UnitResult
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task

SCHEMA = 1
TASKS = ("trec", "sst2", "ag_news")
ORDERS = ("task by task", "by turns")
UNITS_PER_TASK, DRAWS = 3, 16
AHEAD = 12  # units in the engine


def briefs(data: Path, draws_of_shots: int) -> list[TaskBrief]:
    """Each of `TASKS` with so many different draws of shots: as many tasks."""
    made = []
    for name in TASKS:
        task = load_task(name, data / name)
        for seed in range(draws_of_shots):
            named = msgspec.structs.replace(task, name=f"{name}-{seed}")
            shots = tuple(take_shots(task, 4, seed))
            made.append(TaskBrief(task=named, shots=shots, settings=PRESETS["corpus"]))
    return made


def ordered(made: Sequence[TaskBrief], order: str) -> list[Unit]:
    """The units of all tasks; number 0 is left out, for it asks for more than its draws."""
    units = [
        [
            Unit(
                task=one.task.name,
                number=turn + 1,
                label=one.task.label_names[turn % len(one.task.labels)],
                first_draw=DRAWS * turn,
                draws=DRAWS,
            )
            for turn in range(UNITS_PER_TASK)
        ]
        for one in made
    ]
    lists = units if order == ORDERS[0] else zip(*units, strict=True)
    return [unit for some in lists for unit in some]


def measure(made: Sequence[TaskBrief], order: str, model: str, kv_mib: int) -> dict[str, Any]:
    """One pass through all units, by an engine whose kernels are built."""
    engine = open_engine(EngineSettings(model=model, kv_cache_bytes=kv_mib << 20, compile=False))
    for _ in engine.sample(["Text:"] * AHEAD, Sampling(max_tokens=8, seed=0)):
        pass
    engine.score(["Text: one\nLabel:"], ["one", "two"])
    engine.reset_prefix_cache()
    before = engine.stats()
    inbox: Inbox = queue.SimpleQueue()
    waiting = ordered(made, order)
    results: list[UnitResult] = []

    def take(result: UnitResult) -> None:
        results.append(result)
        inbox.put(waiting.pop(0) if waiting else None)

    for one in made:
        inbox.put(one)
    for _ in range(min(AHEAD, len(waiting))):
        inbox.put(waiting.pop(0))
    started = time.perf_counter()
    work(engine, inbox, take)
    seconds, after = time.perf_counter() - started, engine.stats()
    engine.close()
    prompt, cached = after.prompt_tokens - before.prompt_tokens, after.cached_tokens - before.cached_tokens
    draws = sum(len(result.draws) for result in results)
    return {
        "order": order,
        "kv_mib": kv_mib,
        "seconds": seconds,
        "draws_per_s": draws / seconds,
        "prompt_tokens": prompt,
        "computed_prompt_tokens": prompt - cached,
        "hit_rate": cached / prompt,
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is missing, and write everything."""
    check_out(options.out)
    check_data(options.data, TASKS)
    model = resolve_model(options.model)
    made = briefs(options.data, options.draws_of_shots)
    told = {"model": model.name, "tasks": len(made), "kv_mib": options.kv_mib}
    rows = Rows(options.out.with_suffix(".rows.jsonl"), told)
    for kv_mib in options.kv_mib:
        for order in ORDERS:
            piece = f"{order}, {kv_mib} MiB"
            if piece not in rows.found:
                rows.add(piece, measure(made, order, model.path, kv_mib))
                tell(f"{piece}: {rows.found[piece]['draws_per_s']:.1f} draws/s")
    found = list(rows.found.values())
    one, other = found[-2:]
    gain = at_least("draws/s task by task, smallest memory", "times", one["draws_per_s"] / other["draws_per_s"], 1.0)
    result = {**header("corpus-order", SCHEMA, told), "rows": found, "targets": [gain]}
    write_json(options.out, result)
    return result


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| memory, MiB | order | draws/s | prompt tokens from the cache |", "| ---: | --- | ---: | ---: |"]
    lines += [
        f"| {one['kv_mib']:,} | {one['order']} | {one['draws_per_s']:.1f} | {one['hit_rate']:.1%} |"
        for one in result["rows"]
    ]
    return "\n".join([*lines, "", *target_lines(result)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"a folder with {', '.join(TASKS)}")
    parser.add_argument("--out", type=Path, required=True, help="where the result goes; .rows.jsonl beside it")
    parser.add_argument(
        "--draws-of-shots", type=positive, default=3, metavar="N", help="tasks of each kind (%(default)s)"
    )
    parser.add_argument("--kv-mib", type=positive, nargs="+", default=[1024, 48], help="default: 1024 48")
    parser.add_argument("--model", help="base model; the embedded one if left out")
    print(table(run(parser.parse_args())))


if __name__ == "__main__":
    main()

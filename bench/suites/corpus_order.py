"""Throughput of a corpus by the order of its units: task by task, as a corpus does it, or alternating between tasks.

    fourshot bench corpus-order --data FOLDER --out FILE.json

The same units are run in each order, with a KV cache that holds the examples of all tasks, and with one that does not.
The prefix cache serves what a prompt has in common with earlier ones; if memory is short, it keeps what was used last.
"""

import queue
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.options import Model, Out, Positive, as_settings
from fourshot.bench.core.parts import Part, TablePart, at_least
from fourshot.bench.core.results import FinishedPieces
from fourshot.bench.core.suite import Suite
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.core import EngineSettings, Sampling
from fourshot.engine.opening import open_engine
from fourshot.pipeline.loop.plan import class_slice, in_place_unit
from fourshot.pipeline.loop.unit_runner import Inbox, run_units
from fourshot.pipeline.loop.units import DrawUnit, TaskBrief, UnitProgress, UnitResult
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task

TASKS = ("trec", "sst2", "ag_news")
ORDERS = ("task by task", "by turns")
UNITS_PER_TASK, DRAWS = 3, 16
AHEAD = 12  # units given to the engine at a time


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: Annotated[Path, f"a folder with {', '.join(TASKS)}"]
    out: Out
    draws_of_shots: Annotated[Positive, "tasks of each kind"] = 3
    kv_mib: Annotated[tuple[Positive, ...], "memory of keys and values"] = (1024, 48)
    model: Model = None


def task_briefs(data: Path, draws_of_shots: int) -> list[TaskBrief]:
    """Return a brief for each of `TASKS` and each of ``draws_of_shots`` draws; each counts as a task."""
    briefs = []
    for name in TASKS:
        task = load_task(name, data / name)
        for seed in range(draws_of_shots):
            seeded_task = msgspec.structs.replace(task, name=f"{name}-{seed}")
            shots = tuple(take_shots(task, 4, seed))
            briefs.append(TaskBrief(key=seeded_task.name, task=seeded_task, shots=shots, settings=PRESETS["corpus"]))
    return briefs


def ordered_units(briefs: Sequence[TaskBrief], order: str) -> list[DrawUnit]:
    """Return the units of all tasks in ``order``, one of `ORDERS`. The classes of a task alternate."""

    def unit(brief: TaskBrief, turn: int) -> DrawUnit:
        label = brief.task.label_names[turn % len(brief.task.labels)]
        return in_place_unit(brief.key, turn, class_slice(brief.settings, brief.key, label, DRAWS * turn, DRAWS))

    turns = range(UNITS_PER_TASK)
    if order == ORDERS[0]:
        return [unit(brief, turn) for brief in briefs for turn in turns]
    return [unit(brief, turn) for turn in turns for brief in briefs]


def measure_order(briefs: Sequence[TaskBrief], order: str, model: str, kv_mib: int) -> dict[str, Any]:
    """Run all units once with a new engine, after a warm-up that compiles its kernels. Return the row of ``order``."""
    engine = open_engine(
        EngineSettings(model=model, kv_cache_bytes=kv_mib << 20, gpu_kv_cache_bytes=kv_mib << 20, compile=False)
    )
    for _ in engine.sample(["Text:"] * AHEAD, Sampling(max_tokens=8, seed=0)):
        pass
    engine.score(["Text: one\nLabel:"], ["one", "two"])
    engine.reset_prefix_cache()
    before = engine.stats()
    inbox: Inbox = queue.SimpleQueue()
    waiting = ordered_units(briefs, order)
    results: list[UnitResult] = []

    def take(result: UnitResult | UnitProgress) -> None:
        assert isinstance(result, UnitResult), "a unit of a corpus asks for no reports"
        results.append(result)
        inbox.put(waiting.pop(0) if waiting else None)

    for brief in briefs:
        inbox.put(brief)
    for _ in range(min(AHEAD, len(waiting))):
        inbox.put(waiting.pop(0))
    started = time.perf_counter()
    run_units(engine, inbox, take)
    seconds, ran = time.perf_counter() - started, engine.stats().since(before)
    engine.close()
    return {
        "order": order,
        "kv_mib": kv_mib,
        "seconds": seconds,
        "draws_per_s": sum(len(result.draws) for result in results) / seconds,
        "prompt_tokens": ran.prompt_tokens,
        "computed_prompt_tokens": ran.computed_tokens,
        "hit_rate": ran.cached_tokens / ran.prompt_tokens,
    }


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Measure both orders with each size of the KV cache."""
    model, briefs = resolve_model(options.model), task_briefs(options.data, options.draws_of_shots)
    measured = [
        done.add_once(
            f"{order}, {kv_mib} MiB",
            partial(measure_order, briefs, order, model.path, kv_mib),
            "{draws_per_s:.1f} draws/s",
        )
        for kv_mib in options.kv_mib
        for order in ORDERS
    ]
    smallest = len(ORDERS) * options.kv_mib.index(min(options.kv_mib))
    by_task, by_turns = (row["draws_per_s"] for row in measured[smallest : smallest + len(ORDERS)])
    target = at_least("draws/s task by task, smallest memory", "times", by_task / by_turns, 1.0)
    return {"rows": measured, "targets": [target]}


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return a table with a row for each order and size of the KV cache."""
    columns = {
        "memory, MiB": "{kv_mib:,}",
        "order": "{order}",
        "draws/s": "{draws_per_s:.1f}",
        "prompt tokens from the cache": "{hit_rate:.1%}",
    }
    return [TablePart.of(result["rows"], columns, left=2)]


SUITE = Suite(
    options=Options,
    measure=measure,
    settings=lambda options: {"tasks": len(TASKS) * options.draws_of_shots, **as_settings(options, "kv_mib")},
    tasks=lambda options: TASKS,
    report=report,
)

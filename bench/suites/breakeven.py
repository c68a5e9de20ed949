"""After how many requests an adapter has paid for itself: the time to make it over the time that each request saves.

    fourshot bench breakeven --data FOLDER --latency bench/results/latency-<hardware>.json --out FILE.json

An adapter's cost is the time of `fourshot train TASK` in a new folder, as a user runs it. It is the complete command,
including loading models, on this machine; on a GPU these are GPU-seconds. The saving is the difference in saturated
engine time per request, in context against the adapter. It comes from the latency suite's result of the same machine
and model, with filler if that was measured, because runs make adapters with filler. A finished task is not made again.
"""

import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.options import Model, Out, ThreeTasks
from fourshot.bench.core.parts import Page, Part, Section, TablePart
from fourshot.bench.core.processes import run_fourshot
from fourshot.bench.core.results import FinishedPieces, path_beside, read_result
from fourshot.bench.core.suite import Suite
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import read_json, read_lines
from fourshot.training.lora.examples import TrainingResult

STATES = {"icl_off": "cache off", "icl_cold": "shots drawn per request", "icl_warm": "cache warm"}
VARIANTS = ("lora_filler", "lora")  # the compared adapter: the first that was measured; runs make it with filler


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: ThreeTasks
    latency: Annotated[Path, "a result of `fourshot bench latency`"]
    out: Out
    model: Model = None
    tasks: Annotated[tuple[str, ...], "default: those of the latency result"] = ()


def train_cost(task: str, options: Options) -> dict[str, Any]:
    """Train an adapter in an empty folder beside the result. Return its cost: seconds, trainings and tokens."""
    folder = path_beside(options.out, "") / task
    shutil.rmtree(folder, ignore_errors=True)
    words = (task, "--data", options.data / task, "--out", folder, "--quiet", "--allow-short")
    started = time.perf_counter()
    run_fourshot("train", *words, model=options.model)
    seconds = time.perf_counter() - started
    results = [read_json(file, TrainingResult) for file in folder.glob("**/adapters/*/result.json")]
    return {
        "seconds": seconds,
        "training_s": sum(training.seconds for training in results),
        "trainings": len(results),
        "trained_tokens": sum(training.tokens for training in results),
        "written_tokens": sum(
            candidate["num_tokens"]
            for file in folder.glob("**/candidates.jsonl")
            for candidate in read_lines(file, dict)
        ),
    }


def savings_per_request(latency: Mapping[str, Any], task: str) -> dict[str, dict[str, float]]:
    """Return the engine seconds and prompt tokens that one request saves, by cache state. Negative seconds are a loss.

    Raises InputError if the latency result has no saturated cell of the adapter for this task.
    """
    cells = {
        (cell["way"], cell["task"]): cell
        for cell in latency["cells"]
        if (cell["route"], cell["load"]) == ("in-process", "saturated")
    }
    adapter_cell = next((cells[name, task] for name in VARIANTS if (name, task) in cells), None)
    if adapter_cell is None:
        raise InputError(
            f"the latency result has no saturated cell of {' or '.join(map(repr, VARIANTS))} for {task!r}. Measure it: "
            "fourshot bench latency."
        )
    return {
        state: {
            "seconds": 1 / cells[state, task]["requests_per_s"]["mean"] - 1 / adapter_cell["requests_per_s"]["mean"],
            "prompt_tokens": cells[state, task]["prompt_tokens"] - adapter_cell["prompt_tokens"],
        }
        for state in STATES
        if (state, task) in cells
    }


def tasks(options: Options) -> list[str]:
    """Return the tasks to make adapters for: ``options.tasks``, or those of the latency result."""
    return list(options.tasks) or list(read_result(options.latency, "latency")["settings"]["tasks"])


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Make the missing adapters. Return their costs and the break-even points."""
    latency = read_result(options.latency, "latency")
    model, timed = resolve_model(options.model).name, latency["settings"]["model"]
    if timed != model and not latency["dummy_weights"]:
        raise InputError(
            f"--latency {options.latency} is of {timed}; adapters would be of {model}. Name it in --model."
        )
    names = tasks(options)
    for task in names:
        savings_per_request(latency, task)  # raises before an hour is spent
    costs = {task: done.add_once(task, partial(train_cost, task, options), "made in {seconds:.0f} s") for task in names}
    return {
        "latency": {"commit": latency["commit"], "hardware": latency["hardware"], "file": options.latency.name},
        "made": costs,
        "rows": break_even(costs, latency),
        "targets": [],
    }


def break_even(costs: Mapping[str, Any], latency: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per task and cache state; ``requests`` is None if a request saves no time."""
    return [
        {
            "task": task,
            "state": state,
            "make_s": cost["seconds"],
            "saved_ms": 1000 * gain["seconds"],
            "saved_prompt_tokens": gain["prompt_tokens"],
            "requests": cost["seconds"] / gain["seconds"] if gain["seconds"] > 0 else None,
        }
        for task, cost in costs.items()
        for state, gain in savings_per_request(latency, task).items()
    ]


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return a table with a row per task and cache state."""
    columns: dict[str, Any] = {
        "task": "{task}",
        "in context with": lambda row: STATES[row["state"]],
        "cost of the adapter, s": "{make_s:.0f}",
        "a request saves, ms": "{saved_ms:.1f}",
        "and prompt tokens": "{saved_prompt_tokens:.0f}",
        "pays after requests": lambda row: "never, by time" if row["requests"] is None else f"{row['requests']:,.0f}",
    }
    return [TablePart.of(result["rows"], columns, left=2)]


def page(result: Mapping[str, Any]) -> Page:
    """Return the report as a page."""
    lead = "What making it costs, against what each request then saves, on one machine."
    return Page("When an adapter has paid", [Section("Requests until then", report(result))], lead)


SUITE = Suite(
    options=Options,
    settings=lambda options: {"tasks": tasks(options)},
    tasks=tasks,
    measure=measure,
    report=report,
    page=page,
)

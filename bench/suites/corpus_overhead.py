"""Overhead of `fourshot corpus` without the model: 100,000 rows for 20 tasks, with an engine that answers immediately.

    fourshot bench corpus-overhead --out FILE.json

Everything except the model is real: two processes, prompts, filters, shards on disk. The fake engine's time is included
in the overhead.
"""

import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from fourshot.bench.core.options import JsonOut, Positive
from fourshot.bench.core.parts import Target, at_most, rows_table
from fourshot.bench.core.results import FinishedPieces
from fourshot.bench.core.suite import Suite
from fourshot.engine.fake_engine import FAKE
from fourshot.pipeline.corpus.run import CorpusRequest, do_corpus
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.events import Event
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.tasks.task_file import load_task

TASK = "support_tickets"
ROW_GOAL_US = 100.0
GROWTH_GOAL = 1.1  # memory at the end, relative to memory after a fifth of the rows


class Options(msgspec.Struct, frozen=True, kw_only=True):
    tasks: Positive = 20
    rows: Positive = 100_000
    format: Literal["jsonl", "parquet"] = "jsonl"
    out: JsonOut = None


def measure_corpus(options: Options, folder: Path) -> dict[str, Any]:
    """Make a corpus for copies of one task. Return its row: times, memory and counts."""
    shape, preset = load_task(TASK), PRESETS["corpus"]
    names = [f"{TASK}_{number:02d}" for number in range(options.tasks)]
    per_class = options.rows // (options.tasks * len(shape.labels))
    settings = msgspec.structs.replace(preset, generate=msgspec.structs.replace(preset.generate, per_class=per_class))
    log: list[dict[str, float]] = []

    def on_event(event: Event) -> None:
        """Log memory and processor time of the driver and its child."""
        if event.unit == "rows":
            driver = psutil.Process()
            log.append({"at_s": time.perf_counter(), "rows": float(event.done)})
            for role, processes in (("driver", [driver]), ("worker", driver.children(recursive=True))):
                log[-1][f"{role}_bytes"] = sum(process.memory_info().rss for process in processes)
                log[-1][f"{role}_cpu_s"] = sum(sum(process.cpu_times()[:2]) for process in processes)

    started = time.perf_counter()
    tasks = {name: msgspec.structs.replace(shape, name=name) for name in names}
    request = CorpusRequest(tasks, FAKE, folder, settings, CorpusSettings(format=options.format))
    summary = do_corpus(request, on_event)
    seconds = time.perf_counter() - started
    first, last = log[0], log[-1]
    early_row = next(row for row in log if row["rows"] >= 0.2 * summary.rows)

    def us_per_row(field: str) -> float:
        return round(1e6 * (last[field] - first[field]) / (last["rows"] - first["rows"]), 1)

    return {
        "tasks": options.tasks,
        "rows": summary.rows,
        "drawn": sum(outcome.drawn for outcome in summary.classes),
        "shards": summary.shards,
        "format": options.format,
        "seconds": round(seconds, 2),  # includes reading the tasks, starting the worker and writing the card
        "us_per_row": us_per_row("at_s"),
        "driver_us_per_row": us_per_row("driver_cpu_s"),
        "worker_us_per_row": us_per_row("worker_cpu_s"),
        "driver_bytes_early": early_row["driver_bytes"],
        "driver_bytes": last["driver_bytes"],
        "worker_bytes_early": early_row["worker_bytes"],
        "worker_bytes": last["worker_bytes"],
    }


def targets(row: dict[str, Any]) -> list[Target]:
    growth = max(row[f"{role}_bytes"] / row[f"{role}_bytes_early"] for role in ("driver", "worker"))
    return [
        at_most("overhead per row", "us", row["us_per_row"], ROW_GOAL_US),
        at_most("memory at the end over that after a fifth of the rows", "times", growth, GROWTH_GOAL),
    ]


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Make and measure one corpus."""
    with tempfile.TemporaryDirectory() as folder:
        row = measure_corpus(options, Path(folder) / "corpus")
    return {"rows": [row], "targets": targets(row)}


SUITE = Suite(
    options=Options,
    measure=measure,
    settings=lambda options: {"task": TASK, "preset": "corpus"},
    report=rows_table,
)

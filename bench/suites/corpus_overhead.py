"""What `fourshot corpus` costs beside the engine: 100,000 rows for 20 tasks, with an engine that answers at once.

    python -m fourshot.bench.suites.corpus_overhead --out bench/results/corpus-overhead-<hardware>.json

All is real but the model: two processes, prompts, filters, shards on the disk. The stand-in's own time counts as ours.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.old import at_most, check_out, header, write_json
from fourshot.pipeline.corpus.run import make_corpus
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.events import Event
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.types import Task

SCHEMA = 1
TASK = "support_tickets"
ROW_GOAL_US = 100.0
GROWTH_GOAL = 1.1  # memory at the end over that when a fifth of the rows were there


class Watch:
    """Listens to events and notes memory and processor time of the driver and its child."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def __call__(self, event: Event) -> None:
        import psutil

        if event.unit != "rows":
            return
        driver = psutil.Process()
        children = driver.children(recursive=True)
        self.rows.append(
            {
                "at_s": time.perf_counter(),
                "rows": event.done,
                "driver_bytes": driver.memory_info().rss,
                "worker_bytes": sum(child.memory_info().rss for child in children),
                "driver_cpu_s": sum(driver.cpu_times()[:2]),
                "worker_cpu_s": sum(sum(child.cpu_times()[:2]) for child in children),
            }
        )


def measure(tasks: int, rows: int, kind: str, folder: Path) -> dict[str, Any]:
    """Make a corpus of ``rows`` rows for ``tasks`` tasks of one shape."""
    shape = load_task(TASK)
    made: dict[str, Any] = {}
    for number in range(tasks):
        task = msgspec.structs.replace(shape, name=f"{TASK}_{number:02d}")
        assert isinstance(task, Task)
        made[task.name] = task
    corpus = PRESETS["corpus"]
    generate = msgspec.structs.replace(corpus.generate, per_class=rows // (tasks * len(shape.labels)))
    settings = msgspec.structs.replace(corpus, generate=generate)
    watch = Watch()
    started = time.perf_counter()
    written = CorpusSettings(format="parquet" if kind == "parquet" else "jsonl")
    summary = make_corpus(made, "fake", folder, settings, written, watch)
    seconds = time.perf_counter() - started
    first, last = watch.rows[0], watch.rows[-1]
    early = next(row for row in watch.rows if row["rows"] >= 0.2 * summary.rows)
    counted = last["rows"] - first["rows"]
    return {
        "tasks": tasks,
        "rows": summary.rows,
        "drawn": sum(one.drawn for one in summary.classes),
        "shards": summary.shards,
        "format": kind,
        "seconds": round(seconds, 2),  # with reading the tasks, starting the worker and writing the card
        "us_per_row": round(1e6 * (last["at_s"] - first["at_s"]) / counted, 1),
        "driver_us_per_row": round(1e6 * (last["driver_cpu_s"] - first["driver_cpu_s"]) / counted, 1),
        "worker_us_per_row": round(1e6 * (last["worker_cpu_s"] - first["worker_cpu_s"]) / counted, 1),
        "driver_bytes_early": early["driver_bytes"],
        "driver_bytes": last["driver_bytes"],
        "worker_bytes_early": early["worker_bytes"],
        "worker_bytes": last["worker_bytes"],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m fourshot.bench.suites.corpus_overhead", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--format", choices=["jsonl", "parquet"], default="jsonl")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.out:
        check_out(options.out)
    with tempfile.TemporaryDirectory() as folder:
        row = measure(options.tasks, options.rows, options.format, Path(folder) / "corpus")
    print(json.dumps(row, indent=1))
    if options.out:
        write_json(options.out, report(row))


def report(row: dict[str, Any]) -> dict[str, Any]:
    """The document that is kept."""
    growth = max(row[f"{who}_bytes"] / row[f"{who}_bytes_early"] for who in ("driver", "worker"))
    return {
        **header("corpus-overhead", SCHEMA, {"task": TASK, "preset": "corpus"}),
        "rows": [row],
        "targets": [
            at_most("overhead per row", "us", row["us_per_row"], ROW_GOAL_US),
            at_most("memory at the end over that after a fifth of the rows", "times", growth, GROWTH_GOAL),
        ],
    }


if __name__ == "__main__":
    main()

"""After how many requests an adapter has paid for itself: what making it costs against what each request saves.

    fourshot bench breakeven --data FOLDER --latency bench/results/latency-<hardware>.json --out FILE.json

Making is `fourshot train TASK` from nothing, as a user runs it: the seconds of the whole command, models loaded and
all, on this machine; on a GPU these are GPU-seconds. Saving is the time of the engine per request, saturated, in
context against the adapter, from the latency suite's result of the same machine and model. A task that was made is not
made again by the next call.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourshot.bench.core.page import Section, Table, provenance, write_page
from fourshot.bench.core.suite import Rows, check_data, check_out, header, read_result, tell, write_json
from fourshot.engine.errors import InputError

SCHEMA = 1
STATES = {"icl_off": "cache off", "icl_cold": "shots drawn per request", "icl_warm": "cache warm"}
WAY = "lora"


def make(task: str, data: Path, folder: Path, model: str | None) -> dict[str, Any]:
    """Make an adapter in ``folder``, from nothing, and say what it took."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "fourshot", "train", task, "--data", str(data / task), "--out", str(folder)]
    command += ["--quiet", "--allow-short", *(["--model", model] if model else [])]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    seconds = time.perf_counter() - started
    results = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("**/adapters/*/result.json")]
    return {
        "seconds": seconds,
        "training_s": sum(one["seconds"] for one in results),
        "trainings": len(results),
        "trained_tokens": sum(one["tokens"] for one in results),
        "written_tokens": sum(one["num_tokens"] for file in folder.glob("**/candidates.jsonl") for one in _lines(file)),
    }


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]


def saved(latency: Mapping[str, Any], task: str) -> dict[str, dict[str, float]]:
    """By cache state: engine seconds and prompt tokens that one request saves. Seconds below zero are lost.

    Raises InputError where the latency result has no saturated cell of the adapter for this task.
    """
    cells = {(one["way"], one["task"]): one for one in latency["cells"] if _saturated(one)}
    own = cells.get((WAY, task))
    if own is None:
        raise InputError(
            f"the latency result has no saturated cell of {WAY!r} for {task!r}. Measure it: fourshot bench latency."
        )
    return {
        state: {
            "seconds": 1 / cells[state, task]["requests_per_s"]["mean"] - 1 / own["requests_per_s"]["mean"],
            "prompt_tokens": cells[state, task]["prompt_tokens"] - own["prompt_tokens"],
        }
        for state in STATES
        if (state, task) in cells
    }


def _saturated(cell: Mapping[str, Any]) -> bool:
    return bool(cell["route"] == "in-process" and cell["load"] == "saturated")


def rows(made: Mapping[str, Any], latency: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per task and cache state; ``requests`` is None where a request saves nothing: it never pays."""
    found = []
    for task, cost in made.items():
        for state, gain in saved(latency, task).items():
            found.append(
                {
                    "task": task,
                    "state": state,
                    "make_s": cost["seconds"],
                    "saved_ms": 1000 * gain["seconds"],
                    "saved_prompt_tokens": gain["prompt_tokens"],
                    "requests": cost["seconds"] / gain["seconds"] if gain["seconds"] > 0 else None,
                }
            )
    return found


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "| task | in context with | making it, s | a request saves, ms | and prompt tokens | pays after requests |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in _cells(result))])


def _cells(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            one["task"],
            STATES[one["state"]],
            f"{one['make_s']:.0f}",
            f"{one['saved_ms']:.1f}",
            f"{one['saved_prompt_tokens']:.0f}",
            f"{one['requests']:,.0f}" if one["requests"] is not None else "never, by time",
        )
        for one in result["rows"]
    ]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make what is missing, and write everything."""
    check_out(options.out)
    latency = read_result(options.latency, "latency")
    tasks = options.tasks.split(",") if options.tasks else latency["settings"]["tasks"]
    check_data(options.data, tasks)
    for task in tasks:
        saved(latency, task)  # before an hour is spent
    told = {"tasks": tasks, "model": options.model or "embedded"}
    pieces = Rows(options.out.with_suffix(".rows.jsonl"), told)
    for task in tasks:
        if task not in pieces.found:
            pieces.add(task, make(task, options.data, options.out.with_suffix("") / task, options.model))
            tell(f"{task}: made in {pieces.found[task]['seconds']:.0f} s")
    made = {task: pieces.found[task] for task in tasks}
    result = {
        **header("breakeven", SCHEMA, told),
        "latency": {"commit": latency["commit"], "hardware": latency["hardware"], "file": options.latency.name},
        "made": made,
        "rows": rows(made, latency),
        "targets": [],
    }
    write_json(options.out, result)
    head = (
        "task",
        "in context with",
        "making it, s",
        "a request saves, ms",
        "and prompt tokens",
        "pays after requests",
    )
    write_page(
        options.out.with_suffix(".html"),
        "When an adapter has paid",
        [Section("Requests until then", [Table(head, _cells(result))]), provenance(result)],
        lead="What making it costs, against what each request then saves, on one machine.",
        suite="breakeven",
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with sst2/, trec/ and ag_news/")
    parser.add_argument("--latency", type=Path, required=True, help="a result of `fourshot bench latency`")
    parser.add_argument("--out", type=Path, required=True, help="where the result goes; a page and the runs beside it")
    parser.add_argument("--model", help="base model; the embedded one if left out")
    parser.add_argument("--tasks", help="comma-separated (default: those of the latency result)")
    print(table(run(parser.parse_args())))


if __name__ == "__main__":
    main()

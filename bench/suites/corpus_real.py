"""A corpus of a real model on real tasks, made by the command as a user would, killed on the way, and looked through.

    fourshot bench corpus-real --data FOLDER --out FILE.json

The driver is killed once (kill -9) and the engine once, after so many rows; the same command then goes on. What comes
out must have every row once, as many per class as were asked for, and load with `datasets`. The corpus lies in a folder
beside the result; its data card is copied beside it as FILE.md.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.old import (
    at_least,
    at_most,
    check_data,
    check_out,
    header,
    positive,
    target_lines,
    tell,
    write_json,
)
from fourshot.bench.suites.corpus_kills import children, rows_of
from fourshot.engine.models import resolve_model
from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.summary import ClassOutcome
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.tasks.task_file import load_task

SCHEMA = 1
ROWS_GOAL = 5_000
KILLS = {"engine": 0.15, "driver": 0.4}  # who dies -> at which share of the rows
PATIENCE_S = 7200.0


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the command."""

    seconds: float
    rows: int  # that it added
    ended: str  # "finished", or who was killed


def command(options: argparse.Namespace, folder: Path) -> list[str]:
    """What a user would type."""
    given = [sys.executable, "-m", "fourshot", "corpus", "--json", "--data", str(options.data), "--out", str(folder)]
    given += ["--per-class", str(options.per_class), "--tasks", *options.tasks]
    for setting in options.set:
        given += ["--set", setting]
    return [*given, *(["--model", options.model] if options.model else [])]


def make(options: argparse.Namespace, folder: Path, wanted: int) -> tuple[list[Call], dict[str, int]]:
    """Make the corpus in as many calls as it takes. The engine dies within a call, which goes on by itself.

    Gives the calls, and after how many rows who was killed.
    """
    calls: list[Call] = []
    killed: dict[str, int] = {}
    kills = dict(KILLS) if not _rows(folder) else {}  # a corpus that was begun is finished without
    while True:
        before, started = _rows(folder), time.monotonic()
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            driver = subprocess.Popen(command(options, folder), stdout=subprocess.DEVNULL, stderr=log)
        while driver.poll() is None:
            time.sleep(0.2)
            for who, share in list(kills.items()):
                pids = children(driver.pid) if who == "engine" else [driver.pid]
                if (rows := _rows(folder)) >= share * wanted and pids:
                    del kills[who]
                    killed[who] = rows
                    tell(f"killing the {who} after {rows} rows")
                    os.kill(pids[0], signal.SIGKILL)
                    break
            if time.monotonic() - started > PATIENCE_S:
                driver.kill()
                raise RuntimeError(f"{folder} is not finished after {PATIENCE_S:.0f} s")
        was_killed = driver.returncode == -signal.SIGKILL
        seconds = time.monotonic() - started
        calls.append(
            Call(seconds=seconds, rows=_rows(folder) - before, ended="driver killed" if was_killed else "finished")
        )
        if driver.returncode == 0:
            return calls, killed
        if not was_killed:
            raise RuntimeError(f"the command ended with {driver.returncode}; see {folder.parent / folder.name}.log")


def _rows(folder: Path) -> int:
    return sum(shard.rows for shard in CorpusFolder(folder).journal()) if folder.exists() else 0


def looked_through(folder: Path, tasks: list[str]) -> dict[str, Any]:
    """Rows per class, and what should be nowhere: rows twice, texts twice."""
    from datasets import load_dataset

    rows = rows_of(folder)
    ids = Counter((row.task, row.id) for row in rows)
    texts = Counter((row.task, row.text) for row in rows)
    loaded = {name: load_dataset(str(folder), name, split="train").num_rows for name in tasks}
    return {
        "rows": len(rows),
        "loaded_rows": loaded,
        "per_class": {f"{task}, {label}": n for (task, label), n in Counter((r.task, r.label) for r in rows).items()},
        "rows_twice": sum(n - 1 for n in ids.values()),
        "texts_twice": sum(n - 1 for n in texts.values()),
        "words_per_text": sum(len(row.text.split()) for row in rows) / len(rows),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make what is missing of the corpus, look through it, and write everything."""
    check_out(options.out)
    check_data(options.data, options.tasks)
    folder = options.out.with_suffix("")
    classes = {name: len(load_task(name, options.data / name).labels) for name in options.tasks}
    wanted = options.per_class * sum(classes.values())
    calls, killed = make(options, folder, wanted)
    found = looked_through(folder, options.tasks)
    shutil.copyfile(folder / "README.md", options.out.with_suffix(".md"))
    told = {
        "model": resolve_model(options.model).name,
        "tasks": options.tasks,
        "per_class": options.per_class,
        "set": options.set,
        "k": PRESETS["corpus"].k,
    }
    result = {
        **header("corpus-real", SCHEMA, told),
        "calls": msgspec.to_builtins(calls),
        "killed_after_rows": killed,
        "corpus": found,
        "classes": msgspec.to_builtins(_outcomes(folder, options)),
        "rows_per_s": found["rows"] / sum(call.seconds for call in calls),
        "targets": [
            at_least("rows", "", found["rows"], ROWS_GOAL),
            at_most("rows that are there twice", "", found["rows_twice"], 0),
            at_most("rows that were asked for and are not there", "", wanted - found["rows"], 0),
            at_most("rows that `datasets` does not load", "", found["rows"] - sum(found["loaded_rows"].values()), 0),
        ],
    }
    write_json(options.out, result)
    return result


def _outcomes(folder: Path, options: argparse.Namespace) -> list[ClassOutcome]:
    from fourshot.pipeline.corpus.summary import class_outcomes, replayed

    files = CorpusFolder(folder)
    settings = files.manifest().settings.generate
    outcomes: list[ClassOutcome] = []
    for name in options.tasks:
        shards = [shard for shard in files.journal() if shard.task == name]
        outcomes += class_outcomes(files.task(name), settings, replayed(files.task(name), settings, shards))
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder for each task")
    parser.add_argument("--out", type=Path, required=True, help="where the result goes; card and corpus beside it")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "trec"], help="default: sst2 trec")
    parser.add_argument("--per-class", type=positive, default=640, metavar="N", help="default: %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as of `corpus`")
    parser.add_argument("--model", help="base model; the embedded one if left out")
    result = run(parser.parse_args())
    print("\n".join(target_lines(result)))


if __name__ == "__main__":
    main()

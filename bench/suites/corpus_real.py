"""A corpus of a real model on real tasks, made with the command, killed in between, and inspected.

    fourshot bench corpus-real --data FOLDER --out FILE.json

The driver and the engine are killed once each (kill -9), after certain shares of the rows; the same command continues.
The result must have every row once and the requested number per class, and must load with `datasets`. The corpus is
stored in a folder beside the result, and its data card is copied to FILE.md.
"""

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.options import REPEATED, Model, Positive, TaskFolders, as_settings
from fourshot.bench.core.parts import at_least, at_most
from fourshot.bench.core.processes import fourshot
from fourshot.bench.core.results import FinishedPieces, path_beside, show_progress
from fourshot.bench.core.suite import Suite
from fourshot.bench.suites.corpus_kills import child_pids, rows_of
from fourshot.engine.errors import FourshotError
from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.summary import ClassOutcome, class_outcomes, counted
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.tasks.task_file import load_task

ROWS_GOAL = 5_000
KILLS = {"engine": 0.15, "driver": 0.4}  # process to kill -> after which share of the rows
PATIENCE_S = 7200.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: TaskFolders
    out: Annotated[Path, "where the result goes; card and corpus beside it"]
    tasks: Annotated[tuple[str, ...], "of the corpus"] = ("sst2", "trec")
    per_class: Positive = 640
    set: Annotated[tuple[str, ...], "a setting, as of `corpus`", REPEATED] = ()
    model: Model = None


def command(options: Options, folder: Path) -> list[str]:
    """Return the command line as a user would type it."""
    words = ("--json", "--data", options.data, "--out", folder, "--per-class", options.per_class)
    settings = [word for setting in options.set for word in ("--set", setting)]
    return fourshot("corpus", *words, "--tasks", *options.tasks, *settings, model=options.model)


def make_corpus(options: Options, folder: Path, target_rows: int) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Make the corpus in as many calls as it takes. A call survives the death of its engine.

    Returns the calls (seconds, rows added, how they ended), and the number of rows at which each process was killed.
    Raises FourshotError if the command fails or a call takes longer than `PATIENCE_S`.
    """
    calls: list[dict[str, Any]] = []
    killed: dict[str, int] = {}
    kills = dict(KILLS) if not _num_rows(folder) else {}  # a corpus that already has rows is finished undisturbed
    log = folder.parent / f"{folder.name}.log"
    while True:
        rows_before, started = _num_rows(folder), time.monotonic()
        with log.open("ab") as log_file:
            driver = subprocess.Popen(command(options, folder), stdout=subprocess.DEVNULL, stderr=log_file)
        while driver.poll() is None:
            time.sleep(0.2)
            for victim, share in list(kills.items()):
                pids = child_pids(driver.pid) if victim == "engine" else [driver.pid]
                if (rows := _num_rows(folder)) >= share * target_rows and pids:
                    del kills[victim]
                    killed[victim] = rows
                    show_progress(f"killing the {victim} after {rows} rows")
                    os.kill(pids[0], signal.SIGKILL)
                    break
            if time.monotonic() - started > PATIENCE_S:
                driver.kill()
                raise FourshotError(f"{folder} is not finished after {PATIENCE_S:.0f} s")
        was_killed = driver.returncode == -signal.SIGKILL
        if driver.returncode and not was_killed:
            raise FourshotError(f"the command ended with {driver.returncode}; see {log}")
        seconds, ended = time.monotonic() - started, "driver killed" if was_killed else "finished"
        calls.append({"seconds": seconds, "rows": _num_rows(folder) - rows_before, "ended": ended})
        if not was_killed:
            return calls, killed


def _num_rows(folder: Path) -> int:
    return sum(shard.rows for shard in CorpusFolder(folder).journal()) if folder.exists() else 0


def inspect(folder: Path, tasks: tuple[str, ...]) -> dict[str, Any]:
    """Count the rows, also per class and as loaded by `datasets`, and the faults: duplicate rows and texts."""
    from datasets import load_dataset

    rows = rows_of(folder)
    ids = Counter((row.task, row.id) for row in rows)
    texts = Counter((row.task, row.text) for row in rows)
    classes = Counter((row.task, row.label) for row in rows)
    return {
        "rows": len(rows),
        "loaded_rows": {name: load_dataset(str(folder), name, split="train").num_rows for name in tasks},
        "per_class": {f"{task}, {label}": n for (task, label), n in classes.items()},
        "rows_twice": sum(n - 1 for n in ids.values()),
        "texts_twice": sum(n - 1 for n in texts.values()),
        "words_per_text": sum(len(row.text.split()) for row in rows) / len(rows),
    }


def outcomes(folder: Path, tasks: tuple[str, ...]) -> list[ClassOutcome]:
    """Return the outcome of each class, from the corpus's journal."""
    files = CorpusFolder(folder)
    settings = files.manifest().settings.generate
    counts = {name: counted(files.task(name), settings, files.journal()) for name in tasks}
    return [outcome for name in tasks for outcome in class_outcomes(name, counts[name])]


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Make or continue the corpus, and inspect it."""
    folder = path_beside(options.out, "")
    labels = sum(len(load_task(name, options.data / name).labels) for name in options.tasks)
    target_rows = options.per_class * labels
    calls, killed = make_corpus(options, folder, target_rows)
    corpus = inspect(folder, options.tasks)
    shutil.copyfile(folder / "README.md", path_beside(options.out, ".md"))
    not_loaded = corpus["rows"] - sum(corpus["loaded_rows"].values())
    return {
        "calls": calls,
        "killed_after_rows": killed,
        "corpus": corpus,
        "classes": outcomes(folder, options.tasks),
        "rows_per_s": sum(call["rows"] for call in calls) / sum(call["seconds"] for call in calls),
        "targets": [
            at_least("rows", "", corpus["rows"], ROWS_GOAL),
            at_most("rows that are there twice", "", corpus["rows_twice"], 0),
            at_most("rows that were asked for and are not there", "", target_rows - corpus["rows"], 0),
            at_most("rows that `datasets` does not load", "", not_loaded, 0),
        ],
    }


SUITE = Suite(
    options=Options,
    measure=measure,
    settings=lambda options: {**as_settings(options, "tasks", "per_class", "set"), "k": PRESETS["corpus"].k},
)

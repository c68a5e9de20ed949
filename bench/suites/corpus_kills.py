"""kill -9 at random moments: does a corpus lose a row, or get one twice?

    python -m fourshot.bench.suites.corpus_kills --kills 50 --out bench/results/corpus-kills-<hardware>.json

Small corpora are made with a stand-in engine, and either the driver or the engine's process is killed at a random
moment, again and again. A driver that was killed is started again. Whatever happened, the finished corpus must have the
rows of one that was left alone, all of them, each once, in the same order, and every file must be readable.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.old import at_most, check_out, header, write_json
from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.rows import Row, read_rows
from fourshot.pipeline.corpus.run import make_corpus
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.tasks.task_file import load_task

SCHEMA = 1
SLOW = "fake:delay_s=0.002"  # long enough to be killed in the middle
TASK = "support_tickets"
NUM_TASKS, PER_CLASS = 2, 40
LONGEST_S = 2.5  # after which a process is killed at the latest; an undisturbed corpus takes about as long
PATIENCE_S = 60.0


def make(folder: Path) -> None:
    """Make the corpus, or go on with it."""
    shape = load_task(TASK)
    corpus = PRESETS["corpus"]
    generate = msgspec.structs.replace(corpus.generate, per_class=PER_CLASS, draws_per_round=16)
    tasks = {name: msgspec.structs.replace(shape, name=name) for name in (f"{TASK}_{n}" for n in range(NUM_TASKS))}
    settings = msgspec.structs.replace(corpus, generate=generate)
    make_corpus(dict(tasks), SLOW, folder, settings, CorpusSettings(shard_s=0.1))


def rows_of(folder: Path) -> list[Row]:
    """All rows in the order of the journal; raises where a shard cannot be read or holds another number of rows."""
    rows = []
    for shard in CorpusFolder(folder).journal():
        if shard.file:
            found = read_rows(folder / shard.file)
            assert len(found) == shard.rows, f"{shard.file} has {len(found)} rows, its journal says {shard.rows}"
            rows += found
    return sorted(rows, key=lambda row: row.task)  # stable: tasks may take turns, the order within one is what counts


class Killed:
    """Makes one corpus after another, and kills who makes them."""

    def __init__(self, root: Path, seed: int) -> None:
        self._root, self._draw = root, random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.finished: list[Path] = []

    def until(self, kills: int) -> None:
        """Kill so often, then let the last corpus be finished."""
        while self.kills.total() < kills:
            self._one(kills)

    def _one(self, kills: int) -> None:
        folder = self._root / f"corpus-{len(self.finished)}"
        driver = self._start(folder)
        began = time.monotonic()
        while True:
            due = time.monotonic() + self._draw.uniform(0.1, LONGEST_S)
            while time.monotonic() < due and driver.poll() is None:
                time.sleep(0.005)
            if driver.poll() is None and self.kills.total() < kills:
                driver = self._kill(driver, folder)
            elif driver.poll() is not None:
                assert driver.returncode == 0, f"the driver ended with {driver.returncode}"
                self.finished.append(folder)
                return
            assert time.monotonic() - began < PATIENCE_S * kills, f"{folder} is not finished"

    def _kill(self, driver: "subprocess.Popen[bytes]", folder: Path) -> "subprocess.Popen[bytes]":
        """Kill the driver, or the engine's process where there is one."""
        engines = children(driver.pid)
        if engines and self._draw.random() < 0.5:
            os.kill(engines[0], signal.SIGKILL)
            self.kills["engine"] += 1
            return driver
        driver.kill()
        driver.wait()
        self.kills["driver"] += 1
        return self._start(folder)

    def _start(self, folder: Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-m", "fourshot.bench.suites.corpus_kills", "--drive", str(folder)])


def children(pid: int) -> list[int]:
    """Process ids of what a process has started."""
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def check(finished: list[Path], expected: list[Row]) -> dict[str, int]:
    """Rows lost, twice and other, over all corpora; all must be 0."""
    faults: Counter[str] = Counter(lost=0, twice=0, different=0)
    for folder in finished:
        rows = rows_of(folder)
        names = Counter((row.task, row.id) for row in rows)
        faults["twice"] += sum(count - 1 for count in names.values())
        faults["lost"] += sum((row.task, row.id) not in names for row in expected)
        faults["different"] += rows != expected
        json.loads((folder / "manifest.json").read_bytes())
        assert not CorpusFolder(folder).faults(), "a killed engine is no reason to give a row up"
    return dict(faults)


def main() -> None:
    """Kill, compare, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m fourshot.bench.suites.corpus_kills", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)  # be the driver
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.drive:
        make(options.drive)
        return
    if options.out:
        check_out(options.out)
    with tempfile.TemporaryDirectory() as root:
        make(Path(root) / "alone")
        expected = rows_of(Path(root) / "alone")
        killed = Killed(Path(root), options.seed)
        started = time.monotonic()
        killed.until(options.kills)
        faults = check(killed.finished, expected)
    row = {
        "kills": dict(killed.kills),
        "corpora": len(killed.finished),
        "rows_each": len(expected),
        "seconds": round(time.monotonic() - started, 1),
        **faults,
    }
    print(json.dumps(row))
    if options.out:
        write_json(options.out, report(row))


def report(row: dict[str, Any]) -> dict[str, Any]:
    """The document that is kept."""
    kills = sum(row["kills"].values())
    return {
        **header("corpus-kills", SCHEMA, {"tasks": NUM_TASKS, "per_class": PER_CLASS, "task": TASK}),
        "rows": [row],
        "targets": [
            *(at_most(f"rows {fault} after {kills} kills", "rows", row[fault], 0) for fault in ("lost", "twice")),
            at_most("corpora unlike one left alone", "corpora", row["different"], 0),
        ],
    }


if __name__ == "__main__":
    main()

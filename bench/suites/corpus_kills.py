"""Whether a corpus loses or duplicates a row when its processes are killed (kill -9) at random times.

    fourshot bench corpus-kills --kills 50 --out FILE.json

Small corpora are made with the fake engine. Repeatedly, either the driver or the engine's process is killed at a random
time, and a killed driver is started again. Each finished corpus must have exactly the rows of an undisturbed one, each
once and in the same order within a task. Every file must be readable.
"""

import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import psutil

from fourshot.bench.core.options import JsonOut, Positive
from fourshot.bench.core.parts import at_most, rows_table
from fourshot.bench.core.results import FinishedPieces
from fourshot.bench.core.suite import Suite
from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.rows import CorpusRow, read_rows
from fourshot.pipeline.corpus.run import CorpusRequest, do_corpus
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.synthesis.settings import PRESETS
from fourshot.pipeline.tasks.task_file import load_task

SLOW = "fake:delay_s=0.002"  # slow enough to be killed in the middle
TASK = "support_tickets"
NUM_TASKS, PER_CLASS = 2, 40
LONGEST_S = 2.5  # the longest time until a kill; an undisturbed corpus takes about as long
PATIENCE_S = 60.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    kills: Positive = 50
    seed: int = 0
    out: JsonOut = None


def make_small_corpus(folder: Path) -> None:
    """Make the corpus in ``folder``, or continue it."""
    shape, preset = load_task(TASK), PRESETS["corpus"]
    generate = msgspec.structs.replace(preset.generate, per_class=PER_CLASS, draws_per_round=16)
    tasks = {name: msgspec.structs.replace(shape, name=name) for name in (f"{TASK}_{n}" for n in range(NUM_TASKS))}
    settings = msgspec.structs.replace(preset, generate=generate)
    do_corpus(CorpusRequest(tasks, SLOW, folder, settings, CorpusSettings(shard_s=0.1)))


def rows_of(folder: Path) -> list[CorpusRow]:
    """Return all rows, by task and then in the order of the journal.

    Raises an error if a shard cannot be read, and AssertionError if its number of rows differs from the journal's.
    """
    rows = []
    for shard in CorpusFolder(folder).journal():
        if shard.file:
            of_shard = read_rows(folder / shard.file)
            assert len(of_shard) == shard.rows, f"{shard.file} has {len(of_shard)} rows, its journal says {shard.rows}"
            rows += of_shard
    return sorted(rows, key=lambda row: row.task)  # stable; only the order within a task is fixed


class Killer:
    """Makes one corpus after another, and kills the processes that make them."""

    def __init__(self, root: Path, seed: int) -> None:
        self._root, self._draw = root, random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.finished: list[Path] = []

    def run(self, kills: int) -> None:
        """Make corpora until there were ``kills`` kills; the last corpus is then finished undisturbed."""
        while self.kills.total() < kills:
            self._one_corpus(kills)

    def _one_corpus(self, kills: int) -> None:
        folder = self._root / f"corpus-{len(self.finished)}"
        driver = _start(folder)
        deadline = time.monotonic() + PATIENCE_S * kills
        while True:
            driver.join(self._draw.uniform(0.1, LONGEST_S))
            if driver.is_alive() and self.kills.total() < kills:
                driver = self._kill(driver, folder)
            elif not driver.is_alive():
                assert driver.exitcode == 0, f"the driver ended with {driver.exitcode}"
                self.finished.append(folder)
                return
            assert time.monotonic() < deadline, f"{folder} is not finished"

    def _kill(self, driver: BaseProcess, folder: Path) -> BaseProcess:
        """Kill the driver, or its engine's process once it has one. Return the driver that makes the corpus now."""
        if self._draw.random() < 0.5:
            while driver.is_alive():
                if engines := child_pids(driver.pid or 0):
                    os.kill(engines[0], signal.SIGKILL)
                    self.kills["engine"] += 1
                    return driver
                driver.join(0.01)
            return driver
        driver.kill()
        driver.join()
        self.kills["driver"] += 1
        return _start(folder)


def _start(folder: Path) -> BaseProcess:
    driver = multiprocessing.get_context("spawn").Process(target=make_small_corpus, args=(folder,))
    driver.start()
    return driver


def child_pids(pid: int) -> list[int]:
    """Return the ids of a process's children, [] if it does not exist."""
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def check(finished: Sequence[Path], expected: Sequence[CorpusRow]) -> dict[str, int]:
    """Count rows lost, rows that occur twice, and corpora that differ from ``expected``; all must be 0."""
    faults: Counter[str] = Counter(lost=0, twice=0, different=0)
    for folder in finished:
        rows = rows_of(folder)
        names = Counter((row.task, row.id) for row in rows)
        faults["twice"] += sum(number - 1 for number in names.values())
        faults["lost"] += sum((row.task, row.id) not in names for row in expected)
        faults["different"] += rows != expected
        json.loads((folder / "manifest.json").read_bytes())
        assert not CorpusFolder(folder).faults(), "a killed engine is no reason to give a row up"
    return dict(faults)


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Kill the processes of several corpora, and compare the results with an undisturbed corpus."""
    with tempfile.TemporaryDirectory() as root:
        make_small_corpus(Path(root) / "alone")
        expected = rows_of(Path(root) / "alone")
        killer = Killer(Path(root), options.seed)
        started = time.monotonic()
        killer.run(options.kills)
        faults = check(killer.finished, expected)
    row = {
        "kills": dict(killer.kills),
        "corpora": len(killer.finished),
        "rows_each": len(expected),
        "seconds": round(time.monotonic() - started, 1),
        **faults,
    }
    return {
        "rows": [row],
        "targets": [
            *(at_most(f"rows {f} after {killer.kills.total()} kills", "rows", faults[f], 0) for f in ("lost", "twice")),
            at_most("corpora unlike one left alone", "corpora", faults["different"], 0),
        ],
    }


SUITE = Suite(
    options=Options,
    measure=measure,
    settings=lambda options: {"tasks": NUM_TASKS, "per_class": PER_CLASS, "task": TASK},
    report=rows_table,
)

"""Small corpora of a stand-in engine, and engines with faults, for the tests of this folder."""

import os
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fourshot.bench.core.stand_in import StandIn
from fourshot.engine.core import Completion, Engine, EngineSettings, PerPromptAdapter, Sampling
from fourshot.engine.errors import FourshotError, InputError
from fourshot.pipeline.corpus.drawing import Drawer
from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.rows import Row, read_rows
from fourshot.pipeline.corpus.run import make_corpus
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.corpus.summary import CorpusSummary
from fourshot.pipeline.corpus.units import TaskBrief, Unit, UnitResult
from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.types import Task

TASK = load_task("support_tickets")
SHOTS = tuple(take_shots(TASK, k=4, seed=0))
STAND_IN = "fourshot.bench.core.stand_in:open_stand_in"


def named(*names: str) -> dict[str, Any]:
    """The demo task under other names."""
    return {name: msgspec.structs.replace(TASK, name=name) for name in names}


def settings(per_class: int = 12, **more: Any) -> RunSettings:
    """Of a corpus; ``more`` are replaced fields of `GenerateSettings`."""
    corpus = PRESETS["corpus"]
    generate = msgspec.structs.replace(corpus.generate, **{"per_class": per_class, "draws_per_round": 16, **more})
    return msgspec.structs.replace(corpus, generate=generate)


def brief(task: Task = TASK, wanted: RunSettings | None = None) -> TaskBrief:
    return TaskBrief(task=task, shots=SHOTS, settings=wanted or settings())


def make(
    folder: Path, tasks: dict[str, Any] | None = None, wanted: RunSettings | None = None, **corpus: Any
) -> CorpusSummary:
    """A corpus of the stand-in, or of the engine that ``opener`` opens."""
    told = corpus.pop("on_event", lambda event: None)
    written = CorpusSettings(**{"opener": STAND_IN, **corpus})
    return make_corpus(tasks or named("one"), None, folder, wanted or settings(), written, told)


def rows_of(folder: Path) -> list[Row]:
    """All rows, by task and in their order."""
    shards = [shard for shard in CorpusFolder(folder).journal() if shard.file]
    return sorted((row for shard in shards for row in read_rows(folder / shard.file)), key=lambda row: row.task)


class Faulty(StandIn):
    """Refuses to read some texts, and dies, or does something else, when asked to draw for some class."""

    def __init__(
        self, engine: EngineSettings, unreadable: str = "", deadly: str = "", die: Callable[[], None] = os.abort
    ):
        super().__init__(engine)
        self._unreadable, self._deadly, self._die = unreadable, deadly, die

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None
    ) -> Generator[Completion, None, None]:
        if self._deadly and f"Label: {self._deadly}\n" in prompts[0]:
            self._die()
        return super().sample(prompts, sampling, adapter)

    def score(self, prompts: Sequence[str], labels: Sequence[str], adapter: PerPromptAdapter = None) -> np.ndarray:
        if self._unreadable and any(self._unreadable in prompt.rpartition("Text:")[2] for prompt in prompts):
            raise InputError("a prompt has too many tokens")
        return super().score(prompts, labels, adapter)


def open_unreadable(engine: EngineSettings) -> StandIn:
    """Cannot read texts with a certain syllable: about one in twenty."""
    return Faulty(engine, unreadable="bafi")


def open_deadly(engine: EngineSettings) -> StandIn:
    """Its process dies whenever it is to draw for one class."""
    return Faulty(engine, deadly="bug", die=lambda: os._exit(1))


def open_dead(engine: EngineSettings) -> StandIn:
    """Its process dies at once."""
    print("no memory for weights", flush=True)
    os._exit(3)


def open_bad_first(engine: EngineSettings) -> StandIn:
    """The first that is opened has no driver; the others are as `open_slow`."""
    try:
        Path(os.environ["FOURSHOT_TEST_BAD"]).mkdir()  # by one of them
    except FileExistsError:
        return open_slow(engine)
    raise FourshotError("this machine has no driver")


def open_bad(engine: EngineSettings) -> StandIn:
    raise FourshotError("this machine has no driver")


def open_slow(engine: EngineSettings) -> StandIn:
    return StandIn(engine, pause_s=0.005)


class InThisProcess:
    """In place of a `LocalWorker`: an engine that is open already."""

    starts = 1

    def __init__(self, engine: Engine) -> None:
        self._drawer = Drawer(engine)
        self._known: set[str] = set()
        self._done: list[UnitResult] = []

    def has_room(self) -> bool:
        return not self._done

    def give(self, unit: Unit, brief: TaskBrief) -> None:
        if unit.task not in self._known:
            self._known.add(unit.task)
            self._drawer.introduce(brief)
        assert self._drawer.begin(unit) is None
        self._done.append(self._drawer.finish(lambda: None))

    def wait(self, timeout_s: float) -> list[UnitResult]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        pass


def wait_for(condition: Callable[[], bool], what: str, patience_s: float = 30.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"waited {patience_s} s for {what}"
        time.sleep(0.01)

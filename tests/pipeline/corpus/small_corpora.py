"""Small corpora made with the fake engine."""

from pathlib import Path
from typing import Any

import msgspec

from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.rows import CorpusRow, read_rows
from fourshot.pipeline.corpus.run import CorpusRequest, do_corpus
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.corpus.summary import CorpusSummary
from fourshot.pipeline.events import OnEvent, ignore
from fourshot.pipeline.loop.units import TaskBrief
from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.task_file import load_task

TASK = load_task("support_tickets")
SHOTS = tuple(take_shots(TASK, k=4, seed=0))


def named(*names: str) -> dict[str, Any]:
    """Return copies of the demo task by ``names``."""
    return {name: msgspec.structs.replace(TASK, name=name) for name in names}


def settings(per_class: int = 12, **more: Any) -> RunSettings:
    """Return settings of a small corpus. ``more``: other fields of `GenerateSettings`."""
    corpus = PRESETS["corpus"]
    generate = msgspec.structs.replace(corpus.generate, **{"per_class": per_class, "draws_per_round": 16, **more})
    return msgspec.structs.replace(corpus, generate=generate)


def brief(task: Task = TASK, run_settings: RunSettings | None = None) -> TaskBrief:
    return TaskBrief(key=task.name, task=task, shots=SHOTS, settings=run_settings or settings())


def make(
    folder: Path,
    tasks: dict[str, Any] | None = None,
    run_settings: RunSettings | None = None,
    model: str = "fake",
    on_event: OnEvent = ignore,
    forecast: bool = False,
    **corpus: Any,
) -> CorpusSummary:
    """Make a corpus with a fake engine. ``corpus``: fields of `CorpusSettings`."""
    corpus_settings = CorpusSettings(**corpus)
    request = CorpusRequest(tasks or named("one"), model, folder, run_settings or settings(), corpus_settings)
    return do_corpus(request, on_event, forecast=forecast)


def rows_of(folder: Path) -> list[CorpusRow]:
    """Return all rows, sorted by task and in order within a task."""
    shards = [shard for shard in CorpusFolder(folder).journal() if shard.file]
    return sorted((row for shard in shards for row in read_rows(folder / shard.file)), key=lambda row: row.task)

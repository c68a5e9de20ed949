"""Nothing of a corpus is read or written again for each of its many tasks."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.corpus import filling
from fourshot.pipeline.corpus import summary as summary_module
from fourshot.pipeline.corpus.datacard import write_card
from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.corpus.shards import ShardRecord
from fourshot.pipeline.corpus.summary import CorpusSummary
from fourshot.pipeline.loop.counts import ClassCounts
from fourshot.pipeline.synthesis.settings import GenerateSettings
from fourshot.pipeline.task import Task
from tests.pipeline.corpus.small_corpora import make, named, settings


def test_a_journal_is_read_as_often_for_many_tasks_as_for_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each task, 300 tasks of 20 shards took more than a minute before anything was done or told."""
    names, read = [f"task{number}" for number in range(6)], list[Path]()
    make(tmp_path, named(*names), settings(4))
    journal, counts = CorpusFolder.journal, list[int]()

    def read_journal(folder: CorpusFolder) -> list[ShardRecord]:
        read.append(folder.path)
        return journal(folder)

    monkeypatch.setattr(CorpusFolder, "journal", read_journal)
    faulty = [dict.fromkeys(names[:count], InputError("no such data")) for count in (1, 5)]
    for tasks in (named(*names[:1]), named(*names), *({**named(*names), **failed} for failed in faulty)):
        make(tmp_path, tasks, settings(4))
        counts.append(len(read))
        read.clear()
    assert counts[0] == counts[1] and counts[2] == counts[3]


def test_writing_the_card_does_not_read_the_one_before_nor_a_task_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 100 tasks, whose card is written 100 times, that took five times as long as all the rest."""
    import huggingface_hub

    load, task_of = huggingface_hub.metadata_load, CorpusFolder.task
    loaded, read = list[Path](), Counter[str]()

    def load_card(card: Path) -> dict[str, Any] | None:
        loaded.append(card)
        return load(card)

    monkeypatch.setattr(huggingface_hub, "metadata_load", load_card)
    make(tmp_path, named("one", "two"), licence="apache-2.0")
    assert not loaded
    make(tmp_path, named("one", "two", "three"))
    assert len(loaded) == 1 and "license: apache-2.0" in (tmp_path / "README.md").read_text()

    def read_task(folder: CorpusFolder, name: str) -> Task:
        read[name] += 1
        return task_of(folder, name)

    monkeypatch.setattr(CorpusFolder, "task", read_task)
    summary = CorpusSummary(folder=str(tmp_path), rows=0, shards=0, classes=())
    write_card(CorpusFolder(tmp_path), summary, (), CorpusSettings())
    assert read == {"one": 1, "two": 1, "three": 1}


def test_the_shards_of_a_task_are_counted_for_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 400 tasks of ten shards, that was a quarter of the time of each card."""
    tasks, numbers = list[set[str]](), list[int]()
    count = summary_module.counted

    def counted(task: Task, generate: GenerateSettings, journal: Sequence[ShardRecord]) -> ClassCounts:
        tasks.append({shard.task for shard in journal} - {task.name})
        numbers.append(len(journal))
        return count(task, generate, journal)

    monkeypatch.setattr(filling, "counted", counted)
    make(tmp_path, named("one", "two"), settings(4))
    assert not set().union(*tasks) and numbers[-2:] == [1, 1]

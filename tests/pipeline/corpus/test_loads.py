"""What `datasets` reads of a corpus, at any moment."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.rows import encode_rows
from fourshot.pipeline.corpus.settings import Format
from fourshot.pipeline.corpus.shards import ShardRecord
from tests.pipeline.corpus.small_corpora import make, named, rows_of, settings
from tests.pipeline.corpus.test_repair import TASKS, in_this_process, make_small

__all__ = ("in_this_process",)  # a fixture


def test_datasets_loads_it_at_any_moment_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import load_dataset

    add_shard, moments = CorpusFolder.add_shard, list[tuple[str, int]]()

    def add(folder: CorpusFolder, task: str, number: int, *rest: Any) -> ShardRecord:
        shard = add_shard(folder, task, number, *rest)
        if number < 2:  # before the card is written again, as a kill might leave it
            shutil.copytree(folder.path, tmp_path / str(len(moments)) / "corpus")
            moments.append((task, number))
        return shard

    monkeypatch.setattr(CorpusFolder, "add_shard", add)
    make_small(tmp_path / "corpus")
    assert moments == [(task, number) for task in TASKS for number in (0, 1)]
    for place, (task, number) in enumerate(moments):
        folder = tmp_path / str(place) / "corpus"  # the same name, by which `datasets` keeps what it has read
        assert "**Not all classes are finished: " in (folder / "README.md").read_text()
        loaded = load_dataset(str(folder), task, split="train", cache_dir=str(tmp_path / "cache"))
        shards = [shard for shard in CorpusFolder(folder).journal() if shard.task == task]
        assert loaded.num_rows == sum(shard.rows for shard in shards) and len(shards) == number + 1
    assert "Not all" not in (tmp_path / "corpus" / "README.md").read_text()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_folder_of_the_same_name_is_another_corpus(kind: Format, tmp_path: Path) -> None:
    from datasets import load_dataset

    for place, per_class in (("here", 8), ("there", 12)):
        folder = tmp_path / place / "corpus"
        make(folder, named("one"), settings(per_class), format=kind)
        loaded = load_dataset(str(folder), "one", split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded["text"] == [row.text for row in rows_of(folder)], place


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_first_shard_of_empty_lists_loads_with_the_others(kind: Format, tmp_path: Path) -> None:
    from datasets import load_dataset

    make(tmp_path, named("one"), format=kind)
    rows = rows_of(tmp_path)
    bare = [msgspec.structs.replace(row, attributes=(), probabilities=(), shots=()) for row in rows[:9]]
    rich = [msgspec.structs.replace(row, attributes=("topic: chains",)) for row in rows[9:]]
    for number, part in enumerate((bare, rich)):
        (tmp_path / "data" / "one" / f"{number:06d}.{kind}").write_bytes(encode_rows(part, kind))
    loaded = load_dataset(str(tmp_path), "one", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["attributes"] == [[]] * 9 + [["topic: chains"]] * len(rich)
    assert loaded["shots"] == [list(row.shots) for row in (*bare, *rich)]
    assert str(loaded.features["shots"]) == "List(Value('int32'))"

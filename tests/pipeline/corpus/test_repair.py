"""Shards that are not as they were written, in finished and unfinished corpora, and what `datasets` reads meanwhile."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fourshot.cli import main as cli
from fourshot.engine import fake_engine
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import RunFolderError
from fourshot.pipeline.corpus.folder import JOURNAL_FILE, CorpusFolder
from fourshot.pipeline.corpus.settings import Format
from fourshot.pipeline.corpus.shards import ShardRecord
from fourshot.pipeline.events import Event
from tests.pipeline.corpus.small_corpora import TASK, make, named, rows_of, settings
from tests.pipeline.loop.filling import InProcessWorker

TASKS = named("one", "two")
SECOND = "data/one/000001.jsonl"
STARTS = list[int]()  # one for each engine


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are opened here, which takes no time."""

    def open_workers(engine: EngineSettings, *_: object) -> InProcessWorker:
        STARTS.append(1)
        return InProcessWorker(fake_engine.FakeEngine(engine))

    STARTS.clear()
    monkeypatch.setattr("fourshot.pipeline.corpus.filling.open_workers", open_workers)


def make_small(folder: Path, tasks: dict[str, Any] = TASKS, **more: Any) -> Any:
    """Two tasks in several shards each."""
    return make(folder, tasks, rows_per_shard=15, shard_s=0, **more)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def drop_rows(file: Path) -> None:
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-5]))


def change(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"text":"', b'"text":"x', 1))


def unlink(file: Path) -> None:
    file.unlink()


DAMAGES = {
    cut: r"cannot be read \(.*\)",
    drop_rows: r"has \d+ of its \d+ rows",
    change: "was changed",
    unlink: "is missing",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: str(damage.__name__))
def test_a_damaged_shard_of_a_finished_corpus_is_named_and_made_again(damage: Any, tmp_path: Path) -> None:
    events = list[Event]()
    make_small(tmp_path)
    before = rows_of(tmp_path)
    damage(tmp_path / SECOND)
    content = (tmp_path / SECOND).read_bytes() if damage is not unlink else None
    summary = make_small(tmp_path, on_event=events.append)
    assert re.fullmatch(DAMAGES[damage], summary.mended[SECOND]) and len(summary.mended) == 1
    assert f"{SECOND} {summary.mended[SECOND]}: its texts are generated again" in [event.message for event in events]
    assert rows_of(tmp_path) == before
    aside = tmp_path / "damaged" / "one" / "000001.jsonl"
    assert (aside.read_bytes() if aside.exists() else None) == content
    STARTS.clear()
    assert make_small(tmp_path).mended == {} and not STARTS


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_unfinished_corpus_is_mended_and_goes_on_as_if_nothing_had_been(kind: Format, tmp_path: Path) -> None:
    make_small(tmp_path / "whole", format=kind)
    folder = tmp_path / "corpus"
    shutil.copytree(tmp_path / "whole", folder)
    lines = (folder / JOURNAL_FILE).read_bytes().splitlines(keepends=True)
    (folder / JOURNAL_FILE).write_bytes(b"".join(lines[:3]))
    for number in (0, 2):
        cut(folder / "data" / "one" / f"{number:06d}.{kind}")
    summary = make_small(folder, format=kind)
    assert len(summary.mended) == 2 and len(STARTS) == 2, "an engine for each pass"
    assert rows_of(folder) == rows_of(tmp_path / "whole")


@pytest.mark.parametrize("shown", [1, 3], ids=["one shard", "all shards"])
def test_where_other_texts_come_of_it_no_id_and_no_text_is_there_twice(
    shown: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a model, whose answers depend on what shares a batch with them."""
    run_settings, text_of = settings(per_class=24), fake_engine._text
    make_small(tmp_path, run_settings=run_settings)
    before = rows_of(tmp_path)
    for file in sorted(tmp_path.glob("data/one/*"))[:shown]:
        cut(file)

    def other(seed: int, word: str) -> str:
        text = text_of(seed ^ 1 << 40, word)
        return f"{text[:-1]} no." if seed % 3 == 0 else text  # a third is not of its class any more

    monkeypatch.setattr(fake_engine, "_text", other)
    assert len(make_small(tmp_path, run_settings=run_settings).mended) == shown
    rows = rows_of(tmp_path)
    assert Counter((row.task, row.label) for row in rows) == {
        (t, label): 24 for t in TASKS for label in TASK.label_names
    }
    assert len({(row.task, row.id) for row in rows}) == len({(row.task, row.text) for row in rows}) == len(rows) == 240
    assert [row for row in rows if row.task == "two"] == [row for row in before if row.task == "two"]
    assert {shard.rows for shard in CorpusFolder(tmp_path).journal()} != {0}
    assert make_small(tmp_path, run_settings=run_settings).rows == 240


def test_what_is_damaged_while_the_rest_is_made_is_found_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(tmp_path / "whole")
    add_shard = CorpusFolder.add_shard

    def add(folder: CorpusFolder, task: str, number: int, *rest: Any) -> ShardRecord:
        if (task, number) == ("two", 1):
            drop_rows(folder.path / SECOND)
        return add_shard(folder, task, number, *rest)

    monkeypatch.setattr(CorpusFolder, "add_shard", add)
    assert list(make_small(tmp_path / "corpus").mended) == [SECOND]
    assert rows_of(tmp_path / "corpus") == rows_of(tmp_path / "whole")


def test_a_disk_that_damages_what_was_made_again_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(tmp_path)
    replace_shard = CorpusFolder.replace_shard

    def replace(folder: CorpusFolder, old: ShardRecord, *rest: Any) -> None:
        replace_shard(folder, old, *rest)
        cut(folder.path / old.file)

    monkeypatch.setattr(CorpusFolder, "replace_shard", replace)
    cut(tmp_path / SECOND)
    with pytest.raises(RunFolderError, match=f"{SECOND} cannot be read .* after it was generated again"):
        make_small(tmp_path)


def test_a_shard_of_a_task_that_is_not_named_is_not_passed_over(tmp_path: Path) -> None:
    make_small(tmp_path)
    drop_rows(tmp_path / "data" / "two" / "000000.jsonl")
    with pytest.raises(RunFolderError, match=r"data/two/000000.jsonl has .* name the task two \(--tasks\)"):
        make_small(tmp_path, named("one"))
    assert len(make_small(tmp_path).mended) == 1


def test_a_corpus_of_before_there_were_hashes_opens_and_its_rows_are_counted(tmp_path: Path) -> None:
    make_small(tmp_path)
    before, file = rows_of(tmp_path), tmp_path / JOURNAL_FILE
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "sha256"}) + "\n" for line in lines))
    events = list[Event]()
    assert make_small(tmp_path, on_event=events.append).mended == {} and not STARTS[1:]
    message = f"{len(lines)} of {len(lines)} shards were written without a hash: only their rows are counted"
    assert [event.message for event in events].count(message) == 1
    drop_rows(tmp_path / SECOND)
    assert list(make_small(tmp_path).mended) == [SECOND] and rows_of(tmp_path) == before


def test_a_journal_that_lost_its_lines_costs_time_and_no_shard(tmp_path: Path) -> None:
    events = list[Event]()
    make_small(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("data/one/*")}
    (tmp_path / JOURNAL_FILE).unlink()
    assert make_small(tmp_path, on_event=events.append).rows == 120
    assert {file.name: file.read_bytes() for file in tmp_path.glob("damaged/one/*")} == before
    assert any("moved to damaged/: data/one/000000.jsonl" in event.message for event in events)


@pytest.mark.parametrize("name", [JOURNAL_FILE, "tasks/one/annotator.json"])
def test_what_shards_cannot_be_judged_without_is_not_guessed(name: str, tmp_path: Path) -> None:
    make_small(tmp_path, named("one"))
    lines = (tmp_path / JOURNAL_FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL_FILE).write_bytes(b"".join(lines[:-1] if "annotator" in name else [b"{}\n", *lines]))
    (tmp_path / "tasks" / "one" / "annotator.json").unlink()
    with pytest.raises(RunFolderError, match=f"{name} .*in another folder"):
        make_small(tmp_path, named("one"))


@pytest.mark.parametrize(
    "change",
    [lambda lines: [lines[0].replace(b'"rows":', b'"rows":9'), *lines[1:]], lambda lines: [lines[0], *lines]],
    ids=["another count", "a line twice"],
)
def test_a_journal_that_was_edited_is_refused(change: Any, tmp_path: Path) -> None:
    make_small(tmp_path)
    file = tmp_path / JOURNAL_FILE
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))
    with pytest.raises(RunFolderError, match=r"was changed after it was written: .* units? .*in another folder"):
        make_small(tmp_path)


@pytest.mark.parametrize(
    "place", ["data/../../mine.jsonl", "{outside}/mine.jsonl", "tasks/one/manifest.json", "data/x"]
)
def test_a_journal_leads_to_no_file_but_shards(place: str, tmp_path: Path) -> None:
    """Of a corpus that comes from elsewhere: what is found in a damaged shard's place is put aside."""
    folder, mine = tmp_path / "corpus", tmp_path / "mine.jsonl"
    mine.write_text("mine\n")
    make_small(folder)
    name = place.format(outside=tmp_path)
    journal = (folder / JOURNAL_FILE).read_text()
    first = json.loads(journal.splitlines()[0])["file"]
    (folder / JOURNAL_FILE).write_text(journal.replace(first, name))
    with pytest.raises(RunFolderError, match=r"which is not a shard in data/.*in another folder"):
        make_small(folder)
    assert mine.read_text() == "mine\n"


def test_a_data_card_that_somebody_changed_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    events = list[Event]()
    make_small(tmp_path)
    card = tmp_path / "README.md"
    before = card.read_text()
    make_small(tmp_path)
    assert [file.name for file in tmp_path.glob("README*")] == ["README.md"] and card.read_text() == before
    card.write_text(before.replace("# ", "# My own title: ", 1))
    make_small(tmp_path, on_event=events.append)
    (kept,) = tmp_path.glob("README.changed-*.md")
    assert "My own title" in kept.read_text() and card.read_text() == before
    assert any(kept.name in event.message for event in events)


def test_files_beside_the_shards_are_put_aside_and_not_loaded_with_them(tmp_path: Path) -> None:
    events = list[Event]()
    make_small(tmp_path)
    shard, copies = tmp_path / SECOND, ("000001 (1).jsonl", "000099.jsonl")
    for name in copies:
        shutil.copy(shard, shard.with_name(name))
    make_small(tmp_path, on_event=events.append)
    assert {file.name for file in tmp_path.glob("damaged/one/*")} == set(copies)
    assert any(f"data/one/{copies[0]}" in event.message for event in events) and not STARTS[1:]


def test_a_shard_that_was_brought_from_another_corpus_is_put_aside_and_never_removed(tmp_path: Path) -> None:
    make_small(tmp_path)
    events, shard, last = list[Event](), (tmp_path / SECOND).read_bytes(), len(list(tmp_path.glob("data/one/*")))
    for brought in ("other/000000.jsonl", f"one/{last:06d}.jsonl", f"one/{last:06d}.jsonl"):  # as a kill leaves one
        file = tmp_path / "data" / brought
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(shard)
        make_small(tmp_path, on_event=events.append)
    kept = sorted(str(file.relative_to(tmp_path / "damaged")) for file in tmp_path.glob("damaged/*/*"))
    assert kept == [f"one/{last:06d}-2.jsonl", f"one/{last:06d}.jsonl", "other/000000.jsonl"]
    assert all((tmp_path / "damaged" / file).read_bytes() == shard for file in kept)
    assert any("data/other/000000.jsonl" in event.message for event in events)


def test_the_command_warns_of_it_also_where_it_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["corpus", "--tasks", "support_tickets", "--per-class", "4", "--out", str(tmp_path), "--model", "fake"]
    assert cli.main([*words, "--quiet"]) == 0
    assert capfd.readouterr().err == ""
    cut(tmp_path / "data" / "support_tickets" / "000000.jsonl")
    assert cli.main([*words, "--quiet", "--json"]) == 0
    out, err = capfd.readouterr()
    assert "warning: data/support_tickets/000000.jsonl cannot be read" in err and "damaged" in err
    result = json.loads(out)
    assert (result["rows"], list(result["mended"])) == (20, ["data/support_tickets/000000.jsonl"])

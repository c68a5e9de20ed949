"""A corpus from end to end with a stand-in engine: what lies in the folder, and that nothing ends it but its end."""

import errno
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import fourshot
from fourshot.cli import main as cli
from fourshot.engine.core import Engine
from fourshot.engine.errors import FourshotError, InputError, RunFolderError, ShortRunError
from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.rows import features
from fourshot.pipeline.events import Event
from fourshot.pipeline.rows.fields import bare_text
from fourshot.pipeline.synthesis.prompt_style import ChosenStyle
from fourshot.pipeline.synthesis.settings import AnnotateSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.work_folder import WorkFolder
from tests.pipeline.corpus.small_corpora import TASK, make, named, rows_of, settings
from tests.pipeline.loop.filling import InProcessWorker
from tests.pipeline.task_folders import write_pairs
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """A corpus of two tasks that was left alone, and what was told of it."""
    folder, events = tmp_path_factory.mktemp("whole") / "corpus", list[Event]()
    make(folder, named("one", "two"), on_event=events.append)
    return folder, events


def test_every_class_of_every_task_has_its_rows(reference: tuple[Path, list[Event]]) -> None:
    rows = rows_of(reference[0])
    assert Counter((row.task, row.label) for row in rows) == {
        (task, label): 12 for task in ("one", "two") for label in TASK.label_names
    }
    assert {len(row.probabilities) for row in rows} == {5}


def test_progress_is_rows_of_rows_and_ends_at_all_of_them(reference: tuple[Path, list[Event]]) -> None:
    counted = [event for event in reference[1] if event.unit == "rows"]
    assert (counted[-1].done, counted[-1].total) == (120, 120)
    assert {event.message for event in counted} <= {"one", "two"}
    assert "billing 12 kept of " in counted[-1].detail and "tokens_per_s" in counted[-1].figures


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_datasets_loads_it_with_the_lineage_of_every_row(
    kind: str, reference: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    from datasets import load_dataset

    folder = reference[0]
    if kind == "parquet":
        folder = tmp_path / "corpus"
        make(folder, named("one", "two"), format="parquet", rows_per_shard=20, shard_s=0)
        assert [row.id for row in rows_of(folder)] == [row.id for row in rows_of(reference[0])]
    pairs = load_task(write_pairs(tmp_path))
    make(tmp_path / "pairs", {"pairs": pairs}, format=kind)
    row = load_dataset(str(tmp_path / "pairs"), "pairs", split="train", cache_dir=str(tmp_path / "cache"))[0]
    assert list(row["fields"]) == ["premise", "hypothesis"]
    assert bare_text(pairs, row["text"]) == "\n".join(row["fields"].values())
    loaded = load_dataset(str(folder), "two", split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == [column["name"] for column in features()]
    assert loaded["text"] == [row.text for row in rows_of(folder) if row.task == "two"]
    assert loaded[0]["probabilities"] == pytest.approx(list(rows_of(folder)[60].probabilities))


def test_the_data_card_says_what_is_in_it(reference: tuple[Path, list[Event]], tmp_path: Path) -> None:
    card = (reference[0] / "README.md").read_text()
    assert card.startswith("---\nlicense: ")
    for line in ("120 texts", "| one | bug | finished | 12 |", "label_disagrees", "distinct-2", "## Known risks"):
        assert line in card
    assert '"per_class": 12' in card and "fake" in card
    make(tmp_path / "other", licence="cc-by-4.0")
    assert "\nlicense: cc-by-4.0\n" in (tmp_path / "other" / "README.md").read_text()


def test_the_same_call_again_adds_nothing_and_starts_nothing(reference: tuple[Path, list[Event]]) -> None:
    before = (reference[0] / "journal.jsonl").read_bytes()
    summary = make(reference[0], named("one", "two"), model="fake:dies_on_opening=true")
    assert (summary.rows, summary.rates.engine_starts) == (120, 0)
    assert (reference[0] / "journal.jsonl").read_bytes() == before


def test_the_style_of_each_task_is_found_once_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[list[str]]()

    def trying(style: str, model: object, tasks: list[tuple[Task, object]], *rest: object) -> list[ChosenStyle]:
        tried.append([task.name for task, _ in tasks])
        return [ChosenStyle(reason="tried") for _ in tasks]

    monkeypatch.setattr("fourshot.pipeline.corpus.run.choose_styles", trying)
    auto = msgspec.structs.replace(settings(), prompt_style="auto")
    events = list[Event]()
    make(tmp_path / "corpus", named("one"), auto, on_event=events.append)
    make(tmp_path / "corpus", named("one", "two"), auto)
    assert tried == [["one"], ["two"]]
    assert "one, prompt style plain: tried" in [event.message for event in events]
    with pytest.raises(RunFolderError, match="prompt_style"):
        make(tmp_path / "corpus", named("one"))
    (tmp_path / "corpus" / "tasks" / "one" / "prompt_style.json").unlink()
    with pytest.raises(RunFolderError, match=r"tasks/one/prompt_style\.json is missing; the texts in data/one"):
        make(tmp_path / "corpus", named("one"), auto)
    assert tried == [["one"], ["two"]]


def test_chat_of_a_base_without_a_template_is_refused_before_anything_is_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["corpus", "--tasks", "support_tickets", "--out", str(tmp_path / "corpus"), "--model", "fake"]
    assert cli.main([*command, "--prompt-style", "chat"]) == 2
    assert "no tokenizer" in capfd.readouterr().err
    assert not (tmp_path / "corpus").exists()


def test_what_a_failed_start_left_does_not_stop_another_with_other_settings(tmp_path: Path) -> None:
    with pytest.raises(FourshotError, match="no memory for weights"):
        make(tmp_path, model="fake:dies_on_opening=true", run_settings=settings(per_class=13, draws_per_round=15))
    changed = msgspec.structs.replace(settings(per_class=2), seed=1)
    assert (tmp_path / "tasks" / "one" / "shots.json").exists()
    assert make(tmp_path, run_settings=changed).rows == 10
    assert '"seed": 1' in (tmp_path / "manifest.json").read_text()
    tasks = {"two": msgspec.structs.replace(TASK, name="two", instruction="Sort them.")}
    with pytest.raises(FourshotError, match="no memory for weights"):
        make(tmp_path, tasks, changed, model="fake:dies_on_opening=true")
    assert make(tmp_path, named("two"), changed).rows == 20


def test_another_task_may_join_later_and_another_setting_may_not(tmp_path: Path) -> None:
    make(tmp_path / "corpus", named("one"))
    assert make(tmp_path / "corpus", named("two")).rows == 120
    with pytest.raises(RunFolderError, match="per_class"):
        make(tmp_path / "corpus", named("one"), settings(per_class=13))
    changed = {"one": msgspec.structs.replace(named("one")["one"], instruction="Sort these.")}
    with pytest.raises(RunFolderError, match="instruction"):
        make(tmp_path / "corpus", changed)


def test_what_a_kill_left_half_done_is_cut_away_and_done_again(
    reference: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    make(folder, named("one", "two"), rows_per_shard=15, shard_s=0)
    journal = (folder / "journal.jsonl").read_bytes()
    lines = journal.splitlines(keepends=True)
    assert len(lines) > 3
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:30])
    (folder / "data" / "one" / ".000009.jsonl.77").write_text("half a shard")
    unknown = {f"{json.loads(line)['file']}".replace("data/", "damaged/") for line in lines[2:]}
    make(folder, named("one", "two"))
    assert rows_of(folder) == rows_of(reference[0])
    assert {str(file.relative_to(folder)) for file in folder.glob("damaged/*/*")} == unknown
    assert not [file for file in folder.glob("data/*/*") if file.name.startswith(".")]


def test_a_disk_that_is_full_costs_the_shard_at_hand(
    reference: tuple[Path, list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes_left, append = 3, WorkFolder.append

    def fill_up(folder: WorkFolder, name: str, values: Iterable[Any]) -> None:
        nonlocal writes_left
        writes_left -= 1
        if writes_left:
            append(folder, name, values)
            return
        with (folder.path / name).open("ab") as file:
            file.write(msgspec.json.encode(values)[:40])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(WorkFolder, "append", fill_up)
    with pytest.raises(OSError, match="No space"):
        make(tmp_path, named("one", "two"), rows_per_shard=15, shard_s=0)
    monkeypatch.undo()
    (tmp_path / "data" / "one" / "notes.txt").write_text("not ours")
    assert 0 < len(rows_of(tmp_path)) < 120
    make(tmp_path, named("one", "two"))
    assert rows_of(tmp_path) == rows_of(reference[0])
    assert (tmp_path / "data" / "one" / "notes.txt").exists()


def test_a_text_that_cannot_be_read_is_an_error_row_and_another_is_drawn(tmp_path: Path) -> None:
    summary = make(tmp_path, model="fake:unreadable=bafi", run_settings=settings(per_class=40))
    faults = CorpusFolder(tmp_path).faults()
    assert faults and {(fault.task, fault.step) for fault in faults} == {("one", "score")}
    assert sum(outcome.faults for outcome in summary.classes) == len(faults)
    assert summary.rows == 200 and not [row for row in rows_of(tmp_path) if "bafi" in row.text]


def test_units_that_the_engine_dies_of_are_given_up_and_the_rest_is_made(tmp_path: Path) -> None:
    """Its process ends at one class's first unit each time: after a while the unit is done alone, and then left."""
    run_settings = settings(per_class=8, max_candidates=8)
    with pytest.raises(ShortRunError, match=r"one, bug: 0 of 8 kept from 8 draws"):
        make(tmp_path, run_settings=run_settings, model="fake:dies_of=bug")
    kept = Counter(row.label for row in rows_of(tmp_path))
    assert all(kept[label] > 4 for label in TASK.label_names if label != "bug") and not kept["bug"]
    faults = CorpusFolder(tmp_path).faults()
    assert [fault.draw for fault in faults] == list(range(8)) and {fault.label for fault in faults} == {"bug"}


def test_an_engine_that_never_opens_ends_the_corpus_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(FourshotError, match=r"died 3 times(.|\n)*no memory for weights"):
        make(tmp_path, model="fake:dies_on_opening=true")


def test_a_class_that_stalls_is_told_and_everything_else_is_there(tmp_path: Path) -> None:
    hopeless = settings(per_class=20)
    strict = fourshot.RunSettings(
        generate=hopeless.generate, annotate=AnnotateSettings(annotator="icl", calibration="batch", confidence=1.0)
    )
    with pytest.raises(ShortRunError, match=r"(?s)bug: 0 of 20 kept from .*none was kept so far.*--allow-short"):
        make(tmp_path, run_settings=strict)
    assert "| one | bug | stalled | 0 |" in (tmp_path / "README.md").read_text()


def test_a_task_with_a_fault_drops_out_and_the_others_are_made(tmp_path: Path) -> None:
    tasks = {**named("one"), "broken.toml": InputError("the file is broken")}
    events: list[Event] = []
    summary = make(tmp_path, tasks, on_event=events.append)
    messages = [event.message for event in events]
    assert messages.index("broken.toml drops out: the file is broken") < messages.index("starting the engine")
    (failed,) = [outcome for outcome in summary.classes if outcome.state == "failed"]
    assert (failed.task, failed.error) == ("broken.toml", "InputError") and summary.rows == 60
    with pytest.raises(InputError, match="the file is broken"):
        make(tmp_path / "other", {"broken.toml": InputError("the file is broken")})


def test_adapters_have_to_be_named_and_only_where_they_are_asked(tmp_path: Path) -> None:
    by_adapters = fourshot.RunSettings(generate=settings().generate)
    with pytest.raises(InputError, match="--adapters"):
        make(tmp_path / "a", run_settings=by_adapters)
    with pytest.raises(InputError, match="--annotator adapters"):
        make(tmp_path / "b", adapters=str(tmp_path))
    with pytest.raises(InputError, match="has no adapter for one on fake"):
        make(tmp_path / "c", run_settings=by_adapters, adapters=str(tmp_path))
    with pytest.raises(InputError, match="no such folder of adapters"):
        make(tmp_path / "d", run_settings=by_adapters, adapters=str(tmp_path / "nowhere"))
    assert not [*tmp_path.iterdir()]


def make_slowly(folder: Path) -> None:
    """A corpus that takes two seconds and writes a shard every tenth of one."""
    make(folder, named("one", "two"), settings(per_class=40), model="fake:delay_s=0.002", shard_s=0.1)


def test_ctrl_c_leaves_whole_shards_and_a_card_and_the_next_call_goes_on(tmp_path: Path) -> None:
    code = f"from pathlib import Path; import {__name__} as test; test.make_slowly(Path({str(tmp_path)!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for(lambda: len(CorpusFolder(tmp_path).journal()) > 1, "the first shards")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    before = rows_of(tmp_path)
    assert 0 < len(before) < 400
    assert "Not all classes are finished" in (tmp_path / "README.md").read_text()
    make_slowly(tmp_path)
    rows = rows_of(tmp_path)
    assert len(rows) == 400 and [row for row in rows if row in before] == before


def test_the_command_makes_a_corpus_of_a_real_model(
    narrow_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One command from end to end; the engine is the one that all tests share, in this process."""
    monkeypatch.setattr("fourshot.pipeline.corpus.filling.open_workers", lambda *_: InProcessWorker(narrow_engine))
    words = ["corpus", "--tasks", "support_tickets", "--per-class", "2", "--out", str(tmp_path / "c"), "--allow-short"]
    brief = ["--json", "--set", "generate.max_candidates=8", "--set", "generate.max_tokens=40"]
    assert cli.main([*words, *brief]) == 0
    summary = json.loads(capfd.readouterr().out.splitlines()[-1])
    rows = rows_of(tmp_path / "c")
    assert summary["type"] == "result" and summary["rows"] == len(rows) > 0
    assert summary["rates"]["prompt_tokens"] > 1_000 and summary["rates"]["engine_starts"] == 1
    assert {row.model for row in rows} == {"SmolLM2-135M-Instruct"}
    assert (tmp_path / "c" / "README.md").exists()

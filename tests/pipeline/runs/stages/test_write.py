"""Writing for prompts: whole after a kill, and a prompt that is too long takes no other with it."""

from pathlib import Path

import msgspec
import pytest

from fourshot.engine.core import EngineSettings, Sampling
from fourshot.engine.fake_engine import FakeEngine
from fourshot.pipeline.events import ignore
from fourshot.pipeline.runs.stages import write
from fourshot.pipeline.runs.stages.write import WriteItem, WriteStage


def item(folder: Path, *prompts: str) -> WriteItem:
    sampling = Sampling(max_tokens=16, seed=3)
    return WriteItem(title="", folder=str(folder), prompts=prompts, sampling=sampling, model_revision="1")


def done(write_item: WriteItem) -> list[str]:
    stage = WriteStage(model_path="fake", items=(write_item,))
    stage.do(write_item, FakeEngine(EngineSettings(model="fake", kind="fake")), ignore)
    assert stage.is_done
    return [line.text for line in write_item.lines()]


def test_what_a_kill_left_is_kept_and_the_rest_is_that_of_an_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "PART", 2)
    undisturbed, cut = item(tmp_path / "a", "p", "q", "r", "s", "t"), item(tmp_path / "b", "p", "q", "r", "s", "t")
    texts = done(undisturbed)
    assert len(set(texts)) == 5
    lines = undisturbed.file.read_bytes().splitlines(keepends=True)
    cut.file.parent.mkdir()
    cut.file.write_bytes(b"".join(lines[:2]) + lines[2][:7])
    assert not WriteStage(model_path="fake", items=(cut,)).is_done
    assert done(cut) == texts
    assert cut.file.read_bytes().splitlines()[:2] == undisturbed.file.read_bytes().splitlines()[:2]


def test_a_prompt_without_room_for_an_answer_has_a_fault(tmp_path: Path) -> None:
    write_item = item(tmp_path, "short", "long " * 2000, "short too")
    assert [bool(text) for text in done(write_item)] == [True, False, True]
    assert write_item.lines()[1].fault == "its prompt is longer than 2032 tokens"


def test_a_file_is_named_by_all_that_decides_the_texts(tmp_path: Path) -> None:
    write_item = item(tmp_path, "p")
    different = [
        item(tmp_path, "q"),
        msgspec.structs.replace(write_item, model_revision="2"),
        msgspec.structs.replace(write_item, sampling=Sampling(temperature=0.0)),
    ]
    assert len({write_item.file, *(other.file for other in different)}) == 4
    assert msgspec.structs.replace(write_item, title="other").file == write_item.file

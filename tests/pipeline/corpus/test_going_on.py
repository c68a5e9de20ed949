"""A corpus that goes on: what an earlier call left is not changed unseen, and only what was asked for is judged."""

from pathlib import Path

import msgspec
import pytest

from fourshot.cli.main import main
from fourshot.engine.errors import InputError, RunFolderError, ShortRunError
from fourshot.pipeline.corpus.folder import CorpusFolder, TaskManifest
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.events import Event
from fourshot.pipeline.synthesis.settings import AnnotateSettings
from tests.pipeline.corpus.small_corpora import SHOTS, TASK, make, named, settings


def states(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}


def test_a_licence_holds_until_another_is_given(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    make(tmp_path, licence="cc-by-4.0")
    make(tmp_path, named("one", "two"))
    assert "license: cc-by-4.0\n" in card.read_text()
    make(tmp_path, licence="apache-2.0")
    assert "license: apache-2.0\n" in card.read_text()
    for licence in ("other: see O'Reilly's", '"as is"', "words " * 40 + "end"):
        make(tmp_path, licence=licence)
        written = card.read_text()
        make(tmp_path)
        assert card.read_text() == written


@pytest.mark.parametrize("licence", ["", "mit\nfoo: bar"])
def test_a_licence_is_one_line(licence: str) -> None:
    with pytest.raises(InputError, match="licence must be one line"):
        CorpusSettings(licence=licence)


def test_a_card_that_lines_were_added_to_is_kept_and_that_is_told_without_progress(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["corpus", "--tasks", "support_tickets", "--out", str(tmp_path), "--model", "fake", "--per-class", "8"]
    assert main([*command, "--quiet"]) == 0
    with (tmp_path / "README.md").open("a") as card:
        card.write("My own notes\n")
    capfd.readouterr()
    assert main([*command, "--quiet"]) == 0
    assert "README.md had been changed" in capfd.readouterr().err
    (kept,) = tmp_path.glob("README.changed-*.md")
    assert kept.read_text().endswith("My own notes\n")


def test_a_task_that_dropped_out_is_named_beside_classes_that_stalled(tmp_path: Path) -> None:
    hardly_any = settings(max_candidates=16, min_acceptance=0.0, per_class=60)
    with pytest.raises(ShortRunError) as short:
        make(tmp_path, {**named("one"), "two": InputError("no such data")}, hardly_any)
    assert "one, " in str(short.value) and "Task two dropped out: no such data" in str(short.value)


def test_only_tasks_of_the_call_are_judged(tmp_path: Path) -> None:
    hopeless = msgspec.structs.replace(
        settings(), annotate=AnnotateSettings(annotator="icl", calibration="batch", confidence=1.0)
    )
    for name, other in (("one", "two"), ("two", "one")):
        with pytest.raises(ShortRunError) as short:
            make(tmp_path, named(name), hopeless)
        assert f"{name}, bug: " in str(short.value) and f"{other}, " not in str(short.value)


@pytest.mark.parametrize("name", ["manifest.json", "annotator.json"])
def test_a_task_whose_texts_were_made_by_what_is_gone_is_refused_and_nothing_is_written(
    name: str, tmp_path: Path
) -> None:
    make(tmp_path, named("one", "two"))
    (tmp_path / "tasks" / "one" / name).unlink()
    before = states(tmp_path)
    with pytest.raises(RunFolderError, match=rf"tasks/one/{name} is missing, by which the texts in data/one were made"):
        make(tmp_path)
    assert states(tmp_path) == before
    events: list[Event] = []
    summary = make(tmp_path, named("one", "two"), on_event=events.append)  # the other goes on
    assert [outcome.error for outcome in summary.classes if outcome.task == "one"][-1] == "RunFolderError"
    assert any(event.notice and "one drops out" in event.message for event in events)


def test_another_class_is_named_and_the_advice_does_no_damage(tmp_path: Path) -> None:
    folder = CorpusFolder(tmp_path)
    folder.begin(TaskManifest(task=TASK), SHOTS)
    fewer = msgspec.structs.replace(TASK, labels=TASK.labels[:-1])
    with pytest.raises(RunFolderError) as other:
        folder.begin(TaskManifest(task=fewer), SHOTS)
    message = str(other.value)
    assert f"task.labels: the folder has {len(TASK.labels)}, this call has {len(TASK.labels) - 1}" in message
    assert TASK.labels[-1].name in message and "remove it" not in message
    described = (msgspec.structs.replace(TASK.labels[0], description="x"), *TASK.labels[1:])
    with pytest.raises(RunFolderError, match=r"task\.labels, 1\.description: .*'x'"):
        folder.begin(TaskManifest(task=msgspec.structs.replace(TASK, labels=described)), SHOTS)

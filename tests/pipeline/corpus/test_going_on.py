"""A corpus that goes on: what an earlier call left is not changed unseen, and only what was asked for is judged."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.cli.main import main
from fourshot.engine.errors import FourshotError, InputError, RunFolderError, ShortRunError
from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.manifests import TaskManifest
from fourshot.pipeline.corpus.run import CorpusRequest, plan_corpus
from fourshot.pipeline.corpus.settings import CorpusSettings
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.synthesis.settings import AnnotateSettings, VarietySettings
from fourshot.pipeline.work_folder import Layout
from tests.pipeline.corpus.small_corpora import SHOTS, TASK, make, named, settings


def states(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}


def plan(folder: Path, tasks: dict[str, Any], on_event: OnEvent = ignore) -> None:
    plan_corpus(CorpusRequest(tasks, "fake", folder, settings()), on_event)


def check_refused(folder: Path, tasks: dict[str, Any], why: str) -> None:
    """By the command and its plan, in the same words, and nothing is written."""
    before, said = states(folder), []
    for call in (make, plan):
        with pytest.raises(RunFolderError, match=why) as refused:
            call(folder, tasks)
        said.append(str(refused.value))
    assert states(folder) == before and said[0] == said[1]


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


def test_a_corpus_that_is_stopped_before_its_first_shard_says_that_nothing_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With attributes, these are listed first, for minutes, and a stop loses them."""
    with_attributes = msgspec.structs.replace(settings(), variety=VarietySettings(attributes=True))
    events: list[Event] = []

    def told() -> list[str]:
        lines = [event.message for event in events if "are listed" in event.message or "kept yet" in event.message]
        events.clear()
        return lines

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    listing = "topics and styles of each class are listed; texts follow (variety.attributes)"
    with monkeypatch.context() as patch:
        patch.setattr("fourshot.pipeline.corpus.filling.Driver.run", stopped)
        for run_settings, lines in ((with_attributes, [listing]), (settings(), [])):
            with pytest.raises(KeyboardInterrupt):
                make(tmp_path / str(len(lines)), run_settings=run_settings, on_event=events.append)
            assert told() == [*lines, "nothing was kept yet"]
    make(tmp_path / "1", run_settings=with_attributes, on_event=events.append)
    assert told() == [listing]
    (tmp_path / "1" / CorpusFolder(tmp_path / "1").journal()[0].file).unlink()
    make(tmp_path / "1", run_settings=with_attributes, on_event=events.append)
    assert told() == [], "they are there"


@pytest.mark.parametrize("align", [True, False])
def test_a_start_of_which_no_text_came_does_not_decide_the_layout_of_prompts(align: bool, tmp_path: Path) -> None:
    before, changed = (msgspec.structs.replace(settings(2), align=value) for value in (align, not align))
    events = list[Event]()
    with pytest.raises(FourshotError, match="has no driver"):
        make(tmp_path, run_settings=before, model="fake:fails_on_opening=true")
    assert make(tmp_path, run_settings=changed, on_event=events.append).rows == 10
    assert not [event.message for event in events if "filler" in event.message]
    assert CorpusFolder(tmp_path).layout(Layout.now(not align)).align is not align


def test_the_folder_of_trainings_is_refused_without_a_word_of_how_it_goes_on(tmp_path: Path) -> None:
    events = list[Event]()
    (tmp_path / "tasks.json").write_text("[]")
    with pytest.raises(RunFolderError, match=r"is not empty and holds no run \(found tasks\.json\)"):
        make(tmp_path, on_event=events.append)
    assert not [event.message for event in events if "goes on" in event.message]


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
    assert "README.md was changed after it was written" in capfd.readouterr().err
    (kept,) = tmp_path.glob("README.changed-*.md")
    assert kept.read_text().endswith("My own notes\n")


def test_a_task_that_dropped_out_is_named_beside_classes_that_stalled(tmp_path: Path) -> None:
    hardly_any = settings(max_candidates=16, min_acceptance=0.0, per_class=60)
    with pytest.raises(ShortRunError) as short:
        make(tmp_path, {**named("one"), "two": InputError("no such data")}, hardly_any)
    assert "one, " in str(short.value) and "Task two failed: no such data" in str(short.value)


def test_the_card_of_a_finished_task_stays_as_it_is_where_a_later_call_lacks_its_data(tmp_path: Path) -> None:
    make(tmp_path, named("one"))
    summary = make(tmp_path, {**named("two"), "one": InputError("no such data")})
    assert [outcome.error for outcome in summary.classes if outcome.state == "failed"] == ["InputError"]
    card = (tmp_path / "README.md").read_text()
    assert "failed" not in card and "Not all classes are finished" not in card
    assert "| one |" in card.partition("## Diversity")[2] and "| two |" in card.partition("## Diversity")[2]
    (shard,) = (tmp_path / "data" / "one").iterdir()
    shard.unlink()
    make(tmp_path, {**named("two"), "one": InputError("no such data")})
    card = (tmp_path / "README.md").read_text()
    assert "1 failed" in card and "| one |" not in card.partition("## Diversity")[2]


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
    with pytest.raises(
        RunFolderError, match=rf"tasks/one/{name} is missing; the texts in data/one were generated from it"
    ):
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


def test_a_plan_refuses_a_task_that_was_changed_after_its_texts_and_damage_that_nobody_mends(tmp_path: Path) -> None:
    make(tmp_path, named("one", "two"))
    changed = msgspec.structs.replace(TASK, name="one", instruction="Say what it is about.")
    check_refused(tmp_path, {"one": changed}, r"(?s)task\.instruction: .*Use the task as it is in data/one")
    CorpusFolder(tmp_path).begin(TaskManifest(task=msgspec.structs.replace(changed, name="three")), SHOTS)
    plan(tmp_path, named("three"))  # no text came of the other task of that name
    (tmp_path / "data" / "two" / "000000.jsonl").unlink()
    check_refused(tmp_path, named("one"), r"data/two/000000\.jsonl is missing\. .*name the task two")
    events: list[Event] = []
    plan(tmp_path, named("one", "two"), events.append)
    assert any("000000.jsonl is missing: its texts are generated again" in event.message for event in events)


@pytest.mark.parametrize(
    "place", ["README.md", "journal.jsonl", "data", "data/one", "data/one/000000.jsonl", "tasks/one"]
)
def test_a_corpus_with_a_link_in_it_is_refused_and_what_it_leads_to_is_as_it_was(place: str, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    make(folder)
    (folder / place).rename(elsewhere)
    (folder / place).symlink_to(elsewhere)
    if elsewhere.is_dir():
        (elsewhere / "mine.jsonl").write_text("mine\n")
    before = states(tmp_path)
    check_refused(
        folder, named("one"), rf"corpus/{place} is a link, but a corpus is written only inside its own folder"
    )
    assert states(tmp_path) == before


def test_the_folder_of_a_run_is_called_one_whatever_links_it_has(tmp_path: Path) -> None:
    """A run's result is a link, and to put what it leads to in its place would mend nothing."""
    (tmp_path / "manifest.json").write_text('{"model_path": "m"}')
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapter").symlink_to("adapters")
    check_refused(tmp_path, named("one"), "holds a run, but this command makes something else. Give another folder")


def test_the_folder_of_a_corpus_may_be_a_link(tmp_path: Path) -> None:
    make(tmp_path / "large disk" / "corpus")
    (tmp_path / "corpus").symlink_to(tmp_path / "large disk" / "corpus")
    assert make(tmp_path / "corpus", named("one", "two")).rows == 2 * 12 * len(TASK.labels)


def test_shots_that_were_changed_after_texts_were_made_from_them_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    file = tmp_path / "tasks" / "one" / "shots.json"
    written = file.read_bytes()
    file.write_bytes(written.replace(b"\n", b" "))  # as another program formats it
    make(tmp_path)
    text = SHOTS[0].text.encode()
    assert text in written
    file.write_bytes(written.replace(text, b"Another text."))
    check_refused(tmp_path, named("one"), r"tasks/one/shots\.json was changed after texts were generated from it")
    manifest = tmp_path / "tasks" / "one" / "manifest.json"
    stored = msgspec.json.decode(manifest.read_bytes())
    del stored["shots"]
    manifest.write_bytes(msgspec.json.encode(stored))
    make(tmp_path)  # of a version that did not write down which they were
    file.write_bytes(written)
    check_refused(tmp_path, named("one"), "was changed after texts")


def test_shots_that_no_text_was_made_from_yet_may_be_changed(tmp_path: Path) -> None:
    make(tmp_path)
    CorpusFolder(tmp_path).begin(TaskManifest(task=msgspec.structs.replace(TASK, name="two")), SHOTS)
    file = tmp_path / "tasks" / "two" / "shots.json"
    file.write_bytes(file.read_bytes().replace(SHOTS[0].text.encode(), b"A text of my own."))
    make(tmp_path, named("one", "two"))
    shots = CorpusFolder(tmp_path).shots("two")
    assert shots and shots[0].text == "A text of my own."
    make(tmp_path, named("one", "two"))


def test_shots_that_are_gone_are_drawn_anew_only_where_they_are_the_same(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "corpus"
    shutil.copytree(TASK.data.folder, data)
    source = msgspec.structs.replace(TASK.data, folder=str(data))
    tasks = {"one": msgspec.structs.replace(TASK, name="one", data=source)}
    make(folder, tasks)
    file = folder / "tasks" / "one" / "shots.json"
    written = file.read_bytes()
    file.unlink()
    make(folder, tasks)
    assert file.read_bytes() == written
    file.unlink()
    content = (data / "shots.jsonl").read_text()
    assert SHOTS[0].text in content
    (data / "shots.jsonl").write_text(content.replace(SHOTS[0].text, "Another text."))
    check_refused(folder, tasks, r"tasks/one/shots\.json is missing; the texts in data/one were generated from it")
    file.write_bytes(written)
    make(folder, tasks)


def test_data_that_were_corrected_before_anything_was_drawn_count(tmp_path: Path) -> None:
    data, folder, events = tmp_path / "data", tmp_path / "corpus", list[Event]()
    shutil.copytree(TASK.data.folder, data)
    source = msgspec.structs.replace(TASK.data, folder=str(data))
    tasks = {"one": msgspec.structs.replace(TASK, name="one", data=source)}
    make(folder, named("two"))
    CorpusFolder(folder).begin(TaskManifest(task=tasks["one"]), SHOTS)
    content = (data / "shots.jsonl").read_text()
    (data / "shots.jsonl").write_text(content.replace(SHOTS[0].text, "A corrected text."))
    make(folder, tasks, on_event=events.append)
    assert "A corrected text." in {shot.text for shot in CorpusFolder(folder).shots("one") or ()}
    assert any("was changed before any text was drawn" in event.message for event in events)
    (data / "shots.jsonl").write_text(content)
    make(folder, tasks, on_event=events.append)
    assert any("1 shot of this folder is no longer in the labelled data" in event.message for event in events)

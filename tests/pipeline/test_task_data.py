"""A run reads each split once, and says what it left out of it."""

from pathlib import Path

import pytest

from fourshot.engine.errors import InputError, RunFolderError
from fourshot.pipeline.cells.run_folder import SHOTS_FILE, RunFolder
from fourshot.pipeline.distillation.annotators import open_run
from fourshot.pipeline.events import Event
from fourshot.pipeline.runs.run import load_shots
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.tasks.task_file import load_task
from tests.pipeline.runs.small_run import write_run
from tests.pipeline.task_folders import COLD, WARM, rows_of, write_jsonl, write_task


def test_rows_that_a_run_leaves_out_are_told_once(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    write_jsonl(tmp_path / "train.jsonl", rows_of([*WARM, WARM[0], "Ice cubes."], "warm") + rows_of(COLD, "cold"))
    events: list[Event] = []
    data = TaskData(task, events.append)
    assert len(data.train) == len(data.train) == 8
    assert [event.message.partition(": ")[2] for event in events] == [
        "1 row repeating an earlier text left out (line 5).",
        "1 text also in the test split left out.",
    ]


def test_shots_that_the_user_chose_are_told_of_too_and_need_no_train_split(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    (tmp_path / "train.jsonl").unlink()
    write_jsonl(tmp_path / "shots.jsonl", rows_of([*WARM, ""], "warm") + rows_of([*COLD, "Ice cubes."], "cold"))
    events: list[Event] = []
    data = TaskData(task, events.append)
    for seed in (0, 1):
        assert {shot.text for shot in data.shots(RunSettings(), seed)} == {*WARM, *COLD}
    assert [event.message.partition(": ")[2] for event in events if "shots" in event.message] == [
        "1 row without a text left out (line 5).",
        "1 text also in the test split left out.",
    ]


def test_labelled_texts_that_are_no_shots_are_counted(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    write_jsonl(tmp_path / "train.jsonl", rows_of([*WARM, "Embers glow."], "warm") + rows_of(COLD, "cold"))
    events: list[Event] = []
    data = TaskData(task, events.append)
    shots = data.shots(RunSettings())
    data.tell_counts(shots)
    assert events[-1].message == "colours: 8 of 9 labelled texts are the shots; --shots takes more of each class"
    data.tell_counts(data.train)
    assert len(events) == 1


def test_real_examples_are_counted_by_the_file_they_are_of(tmp_path: Path) -> None:
    """Beside chosen shots, "all" are those, and not the thousands of the training file."""
    task = load_task(write_task(tmp_path))

    def told(real: str) -> str:
        events: list[Event] = []
        data = TaskData(task, events.append, real=real)
        data.tell_counts(data.shots(RunSettings()))
        return events[-1].message.removeprefix("colours: ")

    assert told("all") == "8 of 8 labelled texts of train.jsonl are the shots"
    write_jsonl(tmp_path / "shots.jsonl", rows_of(WARM[:2], "warm") + rows_of(COLD[:2], "cold"))
    assert told("all") == "4 of 4 labelled texts of shots.jsonl are the shots"
    assert told("50%") == "2 of 4 labelled texts of shots.jsonl are the shots; --real takes more of them"


def test_how_much_of_a_split_is_not_read_is_told_in_one_line(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path))
    events: list[Event] = []
    data = TaskData(task, events.append, RunSettings(max_text_words=5, long_texts="middle"))
    assert len(data.train) == 8 and data.test
    (line,) = [event.message for event in events]
    assert line == (
        "train: 3 of 8 texts have more than 5 words (the longest 7): the middle is not used, 4 of 41 words."
    ), line
    TaskData(task, events.append, RunSettings()).train  # noqa: B018 - read for what it tells
    assert len(events) == 1


def test_shots_that_are_gone_from_a_run_are_drawn_anew_with_a_line(tmp_path: Path) -> None:
    folder, events = write_run(tmp_path / "run"), list[Event]()
    task = load_task(write_task(tmp_path))
    shots = load_shots(TaskData(task, events.append), RunSettings(), folder).shots
    assert shots == tuple(folder.shots()) and not events
    (folder.path / SHOTS_FILE).unlink()
    assert len(load_shots(TaskData(task, events.append), RunSettings(), folder).shots) == 8
    (line,) = [event.message for event in events]
    assert line.startswith(
        f"colours: {folder.path / SHOTS_FILE} is missing, so shots are drawn again: the same ones, if"
    )
    new = RunFolder(tmp_path / "new")
    load_shots(TaskData(task, events.append), RunSettings(), new)
    assert len(events) == 1
    with pytest.raises(InputError, match=r"is not a run folder: it has no shots\.json"):
        open_run(folder.path)


def test_shots_of_a_run_that_the_data_has_otherwise_by_now_are_told(tmp_path: Path) -> None:
    folder, events = write_run(tmp_path / "run"), list[Event]()
    task = load_task(write_task(tmp_path))

    def load(**more: bool) -> None:
        events.clear()
        load_shots(TaskData(task, events.append), RunSettings(), folder, **more)

    load()
    assert not events
    shot = folder.shots()[0]
    train = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(train.replace(shot.text, f"{shot.text} Mended."))
    load()
    (event,) = events
    assert event.notice and f"1 shot of this folder is no longer in the labelled data ({shot.text!r})" in event.message
    (tmp_path / "train.jsonl").unlink()
    load()
    assert not events, "all that is needed is in the folder"
    write_jsonl(tmp_path / "test.jsonl", rows_of([shot.text, "Ice cubes."], "cold"))
    with pytest.raises(RunFolderError, match=r"1 shot of this folder is in the test split by now .* Start again"):
        load()
    load(goes_on=False)

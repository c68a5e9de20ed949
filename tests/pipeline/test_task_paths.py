"""Which tasks names, files and folders stand for."""

from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError, TaskFileError
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.task_paths import load_tasks
from tests.pipeline.task_folders import tasks_in, write_jsonl, write_task


def test_paths_are_names_files_and_folders(tmp_path: Path) -> None:
    tasks_in(tmp_path)
    tasks = load_tasks(["support_tickets", tmp_path / "shades" / "task.toml", tmp_path])
    assert [name for name, task in tasks.items() if not isinstance(task, Exception)] == [
        "support_tickets",
        "shades",
        "colours",
        "few",
    ]
    (faulty,) = (task for task in tasks.values() if isinstance(task, Exception))
    assert isinstance(faulty, TaskFileError)


def test_a_shipped_task_keeps_its_data_where_only_others_have_a_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "colours").mkdir(parents=True)
    write_task(tmp_path)
    write_jsonl(data / "colours" / "train.jsonl", [{"text": "red", "label": "warm"}])
    tasks = load_tasks([tmp_path / "task.toml", "support_tickets"], data)
    colours, tickets = tasks["colours"], tasks["support_tickets"]
    assert isinstance(colours, Task) and colours.data.folder == str(data / "colours")
    assert tickets == load_task("support_tickets")
    (alone,) = load_tasks(["support_tickets"], data).values()
    assert "has no folder 'support_tickets'" in str(alone)
    assert isinstance(load_tasks(["trec", "support_tickets"], data)["trec"], InputError)
    (data / "support_tickets").mkdir()
    own = load_tasks([tmp_path / "task.toml", "support_tickets"], data)["support_tickets"]
    assert isinstance(own, Task) and own.data.folder == str(data / "support_tickets")


def test_paths_that_stand_for_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no task file"):
        load_tasks([tmp_path])
    with pytest.raises(InputError, match=r"no task 'suport_tickets'.*support_tickets"):
        load_tasks(["suport_tickets"])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_task(tmp_path / name)
    with pytest.raises(InputError, match="Two tasks are called 'colours'"):
        load_tasks([tmp_path])


def test_tasks_made_in_python_stand_beside_files(tmp_path: Path) -> None:
    made = msgspec.structs.replace(load_task("support_tickets"), name="made")
    tasks = load_tasks([made, "support_tickets", made])
    assert tasks == {"made": made, "support_tickets": load_task("support_tickets")}
    other = msgspec.structs.replace(made, instruction="Name the department.")
    with pytest.raises(InputError, match="Two tasks are called 'made': one made in Python and one made in Python"):
        load_tasks([made, other])
    faulty = msgspec.structs.replace(made, name="faulty", labels=made.labels[:1])
    assert "the task 'faulty' has 1 fault" in str(load_tasks([faulty])["faulty"])


def test_a_link_to_a_task_file_stands_for_the_data_beside_the_link(tmp_path: Path) -> None:
    for name in ("first", "other"):
        (tmp_path / name).mkdir()
    file, link = write_task(tmp_path / "first"), tmp_path / "other" / "task.toml"
    link.symlink_to(file)
    for given in (link, tmp_path / "other"):
        (task,) = load_tasks([given]).values()
        assert isinstance(task, Task) and task.data.folder == str(tmp_path / "other") == load_task(link).data.folder


def test_of_several_tasks_none_takes_the_files_that_lie_beside_the_folders_of_others(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "colours").mkdir(parents=True)
    (tmp_path / "spam").mkdir()
    for folder in (data, data / "colours"):
        write_jsonl(folder / "train.jsonl", [{"text": "red", "label": "warm"}])
    write_task(tmp_path)
    spam = msgspec.structs.replace(load_task(tmp_path / "task.toml"), name="spam")
    tasks = load_tasks([tmp_path / "task.toml", spam], data)
    assert isinstance(tasks["colours"], Task)
    assert "has no folder 'spam', but one for colours" in str(tasks["spam"])
    (alone,) = load_tasks([spam], data).values()
    assert isinstance(alone, Task) and alone.data.folder == str(data)

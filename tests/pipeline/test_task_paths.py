"""Which tasks names, files and folders stand for."""

from pathlib import Path

import pytest

from fourshot.engine.errors import InputError, TaskFileError
from fourshot.pipeline.tasks.task_paths import load_tasks
from tests.pipeline.task_folders import tasks_in, write_task


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


def test_paths_that_stand_for_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no task file"):
        load_tasks([tmp_path])
    with pytest.raises(InputError, match=r"no task 'suport_tickets'.*support_tickets"):
        load_tasks(["suport_tickets"])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_task(tmp_path / name)
    with pytest.raises(InputError, match="Two tasks are called 'colours'"):
        load_tasks([tmp_path])

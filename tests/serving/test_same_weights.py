"""Two cards of the same weights, which have one name: of two tasks, or of one whose labels were edited."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import read_json, write_json
from fourshot.pipeline.student_card import STUDENT_FILE, file_hashes
from fourshot.pipeline.task import Task
from fourshot.serving.models.adapters_folder import add_adapter
from fourshot.serving.testing.adapters import make_adapter, task_of
from tests.serving.random_students import make_student
from tests.serving.test_adapter_sync import CARDS, Sync, cut, one_of

FILM, GERMAN = task_of("film"), task_of("german", ("gut", "schlecht"))


def with_task(source: Path, folder: Path, task: Task) -> Path:
    """A copy of ``source`` whose card was edited, so that its task is ``task``."""
    shutil.copytree(source, folder)
    file = one_of(CARDS, folder)
    edits = {
        "task": msgspec.to_builtins(task),
        "labels": task.label_names,
        "shots": [{"text": f"a {label.word}", "label": label.name} for label in task.labels],
    }
    card = read_json(file, dict[str, Any])
    write_json(file, {name: edits.get(name, value) for name, value in card.items()})
    return folder


def labels(sync: Sync) -> dict[str, list[str]]:
    """By task, after another look at the folder."""
    sync.now()
    return {info.task: info.labels for info in sync.tasks()}


@pytest.fixture
def sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sync:
    monkeypatch.setattr("fourshot.serving.models.base_model.GRACE_S", 0.0)
    monkeypatch.setattr("fourshot.serving.models.admission.check_weights", lambda *_: None)
    (root := tmp_path / "served").mkdir()
    return Sync(root)


@pytest.mark.parametrize("make", [make_adapter, make_student])
def test_each_task_answers_with_its_labels_and_keeps_its_copy_when_the_other_goes(
    tmp_path: Path, sync: Sync, make: Callable[..., Path]
) -> None:
    first = make(tmp_path / "served", FILM)
    with_task(first, tmp_path / "served" / "german", GERMAN)
    assert sync.now() == {"film": first.name, "german": first.name}
    assert labels(sync) == {"film": [*FILM.label_names], "german": [*GERMAN.label_names]}
    shutil.rmtree(first)
    assert sync.now() == {"german": first.name}
    (version,) = sync.current["german"]
    assert version.folder and any(version.folder.iterdir())
    assert [*(tmp_path / "served" / ".staging").iterdir()] == [version.folder]


def test_the_engine_has_a_name_for_each(tmp_path: Path, sync: Sync) -> None:
    """To vLLM, adapters of one name are one adapter."""
    first = make_adapter(tmp_path / "served", FILM)
    second = with_task(first, tmp_path / "served" / "german", GERMAN)
    models = sync.model._models.lora_requests
    sync.now()
    (other,) = models.keys() - {first.name}
    assert other.startswith(f"{first.name}-")
    shutil.rmtree(first)
    sync.now()
    assert [*models] == [other]
    shutil.rmtree(second)
    make_adapter(tmp_path / "served", FILM)
    sync.now()
    assert [*models] == [first.name]


@pytest.mark.parametrize("make", [make_adapter, make_student])
def test_labels_that_were_edited_answer_within_seconds_of_their_addition(
    tmp_path: Path, sync: Sync, make: Callable[..., Path]
) -> None:
    source, root = make(tmp_path / "made", FILM), tmp_path / "served"
    add_adapter(root, str(source))
    assert labels(sync) == {"film": [*FILM.label_names]}
    edited = task_of("film", ("gut", "schlecht"))
    assert add_adapter(root, str(with_task(source, tmp_path / "edited", edited)))[1]
    assert labels(sync) == {"film": [*edited.label_names]}


def test_a_student_whose_tokenizer_was_replaced_answers_with_that(tmp_path: Path, sync: Sync) -> None:
    student = make_student(tmp_path / "served", FILM)
    sync.now()
    tokenizer = student / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes() + b"\n")  # is read as before, and is another file
    card = read_json(student / STUDENT_FILE, dict[str, Any])
    write_json(student / STUDENT_FILE, card | {"files": file_hashes(student)})
    assert sync.now() == {"film": student.name}
    (version,) = sync.current["film"]
    assert version.folder and (version.folder / tokenizer.name).read_bytes() == tokenizer.read_bytes()
    assert [*(tmp_path / "served" / ".staging").iterdir()] == [version.folder]


def test_an_edit_that_cannot_be_answered_with_changes_no_answer(tmp_path: Path, sync: Sync) -> None:
    adapter = make_adapter(tmp_path / "served", FILM)
    assert sync.now() == {"film": adapter.name}
    file = adapter / "card.json"
    task = msgspec.to_builtins(task_of("film", ("gut", "schlecht")))  # its examples have the labels of before
    write_json(file, read_json(file, dict[str, Any]) | {"task": task})
    for _ in range(2):
        assert labels(sync) == {"film": [*FILM.label_names]}
        assert "it cannot answer" in sync.reasons()[adapter.name]
    shutil.rmtree(adapter)
    assert sync.now() == {}


@pytest.mark.parametrize("make", [make_adapter, make_student])
def test_the_version_of_another_task_is_no_damaged_copy(tmp_path: Path, sync: Sync, make: Callable[..., Path]) -> None:
    source, root = make(tmp_path / "made", FILM), tmp_path / "served"
    add_adapter(root, str(source))
    with pytest.raises(InputError, match="has the same weights, and belongs to the task film"):
        add_adapter(root, str(with_task(source, tmp_path / "edited", GERMAN)))
    assert labels(sync) == {"film": [*FILM.label_names]}


def test_what_the_engine_cannot_load_leaves_no_copy(
    tmp_path: Path, sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(name: str, folder: Path) -> None:
        raise RuntimeError("no such module")

    monkeypatch.setattr(sync.model, "_load", fail)
    first = make_adapter(tmp_path / "served", FILM)
    assert sync.now() == {}
    assert sync.reasons() == {first.name: "vLLM cannot load it: no such module"}
    assert [*(tmp_path / "served" / ".staging").iterdir()] == []


@pytest.mark.parametrize("make", [make_adapter, make_student])
def test_a_version_that_was_moved_and_then_damaged_answers_on(
    tmp_path: Path, sync: Sync, make: Callable[..., Path]
) -> None:
    name = make(tmp_path / "served", FILM).name
    assert sync.now() == {"film": name}
    moved = (tmp_path / "served" / name).rename(tmp_path / "served" / "moved")
    assert sync.now() == {"film": name}
    cut(moved)
    assert sync.now() == {"film": name} and "still served" in sync.reasons()["moved"]

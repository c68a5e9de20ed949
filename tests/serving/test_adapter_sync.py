"""What answers while the folder changes: here damage, with an engine that takes whatever it is given."""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourshot.engine.core import EngineSettings
from fourshot.engine.tokens import load_tokenizer
from fourshot.pipeline.task import Example
from fourshot.serving.models.adapter_sync import AdapterSync
from fourshot.serving.models.base_model import BaseModel
from fourshot.serving.models.in_context import InContext, write_in_context
from fourshot.serving.models.registry import Registry, base_named, write_pins
from fourshot.serving.models.students import Students, queue_of
from fourshot.serving.settings import Limits
from fourshot.serving.testing.adapters import make_adapter, task_of
from tests.serving.random_students import make_student

DESK = task_of("desk")
ON = "still served, by the copy that was loaded before"


class FakeModel(BaseModel):
    """Loads nothing."""

    def __init__(self, staging: Path) -> None:
        async def nothing(*_: Any, **__: Any) -> None:
            pass

        engine = SimpleNamespace(generate=nothing, add_lora=nothing, remove_lora=nothing)
        models, scorer = SimpleNamespace(lora_requests={}), SimpleNamespace(score=nothing)
        super().__init__(
            engine=engine,
            models=models,
            tokenizer=None,
            scorer=scorer,  # type: ignore[arg-type]
            dispatcher=queue_of(Limits()),
            staging=staging,
            base_shapes={},
            largest_rank=8,
            settings=EngineSettings(model="fake"),
        )

    def labels(self, source: Any) -> Any:
        return {"adapter": None, "icl": None}

    async def _load(self, name: str, folder: Path) -> Any:
        return SimpleNamespace(lora_name=name, lora_int_id=1)

    async def _warm_up(self, version: Any) -> None:
        pass


class Sync(AdapterSync):
    """Adapters are loaded by nobody, students as they are."""

    def __init__(self, root: Path) -> None:
        self.model = FakeModel(root / ".staging")
        students = Students(root / ".staging", queue_of(Limits()))
        super().__init__(Registry(root, base_named(None)), students, self.model)

    def now(self) -> dict[str, str]:
        """By task, after another look at the folder: what answers."""
        asyncio.run(self.refresh())
        return {info.task: info.adapter for info in self.tasks()}

    def reasons(self) -> dict[str, str]:
        return {refusal.path: refusal.reason for refusal in self.refused()}


@pytest.fixture
def sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sync:
    monkeypatch.setattr("fourshot.serving.models.base_model.stage", lambda folder, card, staging, *_: staging)
    return Sync(tmp_path)


Make = Callable[..., Path]
CARDS, WEIGHTS = ("card.json", "student.json"), ("adapter_model.safetensors", "model.safetensors")


def one_of(names: tuple[str, ...], folder: Path) -> Path:
    return next(folder / name for name in names if (folder / name).exists())


def cut(folder: Path) -> None:
    file = one_of(WEIGHTS, folder)
    os.truncate(file, file.stat().st_size // 2)


def unreadable_card(folder: Path) -> None:
    one_of(CARDS, folder).write_text('{"name": ')


def card_of_other_bytes(folder: Path) -> None:
    one_of(CARDS, folder).write_bytes(b'{"name": "\xff"}')


def no_weights(folder: Path) -> None:
    one_of(WEIGHTS, folder).unlink()


def other_weights(folder: Path) -> None:
    with one_of(WEIGHTS, folder).open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(1000))


def other_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"a"', '"\u00e4"'))


@pytest.mark.parametrize(
    ("make", "damage"),
    [
        *((make, damage) for make in (make_adapter, make_student) for damage in (cut, unreadable_card, no_weights)),
        (make_adapter, card_of_other_bytes),
        (make_adapter, other_weights),
        (make_student, other_weights),
        (make_student, other_tokenizer),
    ],
)
def test_a_task_whose_only_version_is_damaged_answers_on_and_it_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Make,
    damage: Callable[[Path], None],
) -> None:
    monkeypatch.setattr("fourshot.serving.models.base_model.stage", lambda folder, card, staging, *_: staging)
    root = tmp_path / "served"
    root.mkdir()
    adapter = make(root, DESK)
    sync = Sync(root)
    assert sync.now() == {"desk": adapter.name} and sync.reasons() == {}
    intact = shutil.copytree(adapter, tmp_path / "whole")
    damage(adapter)
    with caplog.at_level(logging.WARNING, "fourshot.serving"):
        for _ in range(2):
            assert sync.now() == {"desk": adapter.name}
    assert ON in sync.reasons()[adapter.name] and sync.damaged == {"desk"}
    assert [ON in record.message for record in caplog.records] == [True]  # once
    shutil.rmtree(adapter)
    shutil.copytree(intact, adapter)
    assert sync.now() == {"desk": adapter.name} and sync.reasons() == {} and not sync.damaged
    damage(adapter)
    assert sync.now() == {"desk": adapter.name}
    shutil.rmtree(adapter)  # taken away is no damage
    assert sync.now() == {}


@pytest.mark.parametrize("make", [make_adapter, make_student])
def test_what_was_loaded_answers_on_before_an_older_version_and_not_before_a_newer(
    tmp_path: Path, sync: Sync, make: Make
) -> None:
    old, new = make(tmp_path, DESK, 1), make(tmp_path, DESK, 2)
    os.utime(one_of(CARDS, old), (1000, 1000))
    assert sync.now() == {"desk": new.name}
    cut(new)
    assert sync.now() == {"desk": new.name}
    write_pins(tmp_path, {"desk": old.name})
    assert sync.now() == {"desk": old.name}
    write_pins(tmp_path, {})
    assert sync.now() == {"desk": old.name}  # the damaged one has left
    newest = make(tmp_path, DESK, 3)
    assert sync.now() == {"desk": newest.name}
    cut(newest)
    shutil.copytree(make(tmp_path / ".made", DESK, 3), tmp_path / "copy-of-it")
    assert sync.now() == {"desk": newest.name} and ON not in sync.reasons()[newest.name]  # a whole copy lies there


def test_a_damaged_file_of_a_task_in_context_or_of_pins_changes_no_answer(tmp_path: Path, sync: Sync) -> None:
    shots = tuple(Example(text=f"a {label.word}", label=label.name) for label in DESK.labels)
    file = write_in_context(tmp_path, InContext(task=DESK, shots=shots))
    first, second = make_adapter(tmp_path, task_of("mood"), 1), make_adapter(tmp_path, task_of("mood"), 2)
    os.utime(first / "card.json", (1000, 1000))
    write_pins(tmp_path, {"mood": first.name})
    assert sync.now() == {"desk": "", "mood": first.name}
    file.write_text("{")
    (tmp_path / "pins.json").write_text('{"mood": 3}')
    assert sync.now() == {"desk": "", "mood": first.name}
    assert ON in sync.reasons()[file.name] and "cannot be read" in sync.reasons()["pins.json"]
    file.unlink()
    (tmp_path / "pins.json").unlink()
    assert sync.now() == {"mood": second.name}


def test_in_context_is_not_offered_where_the_examples_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fourshot.serving.models.base_model.stage", lambda folder, card, staging, *_: staging)
    sync = Sync(tmp_path)
    sync.model.tokenizer = load_tokenizer(model)
    monkeypatch.setattr(sync.model, "labels", partial(BaseModel.labels, sync.model))
    many_labels = task_of("many", [f"change the setting {number}" for number in range(150)])
    for task in (DESK, many_labels):
        texts = [(f"please {label.word}, {turn}", label.name) for label in task.labels for turn in range(4)]
        shots = tuple(Example(text=text, label=label) for text, label in texts)
        write_in_context(tmp_path, InContext(task=task, shots=shots))
    with caplog.at_level(logging.WARNING, "fourshot.serving"):
        for _ in range(3):
            assert sync.now() == {"desk": ""}
    assert caplog.text.count("many.in-context.json is refused: its 600 examples need ") == 1
    assert "600 examples" in sync.reasons()["many.in-context.json"]
    write_in_context(tmp_path, InContext(task=DESK, shots=(Example(text="good " * 250, label="good-label"),) * 40))
    assert sync.now() == {"desk": ""} and "its 40 examples" in sync.reasons()["desk.in-context.json"]
    adapter = make_adapter(tmp_path, many_labels, verbalizer="token", shots=shots)
    assert sync.now() == {"desk": "", "many": adapter.name}
    assert {info.task: info.methods for info in sync.tasks()} == {"desk": ["icl"], "many": ["adapter"]}
    version: Any = sync.current["many"][0]
    assert [len(request.tokens) for request in version.labels["adapter"].trie_requests(128)] == [128, 22]


@pytest.mark.parametrize("fault", [ValueError("longer than the model"), RuntimeError("no memory")])
def test_one_that_cannot_answer_is_refused_and_takes_no_other_with_it(
    tmp_path: Path, sync: Sync, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    bad, good = make_adapter(tmp_path, task_of("a-bad")), make_adapter(tmp_path, DESK)
    removed: list[int] = []

    async def warm_up(version: Any) -> None:
        if version.task.name == "a-bad":
            raise fault

    async def remove(number: int) -> None:
        removed.append(number)

    monkeypatch.setattr(sync.model, "_warm_up", warm_up)
    sync.model._engine.remove_lora = remove
    for _ in range(2):
        assert sync.now() == {"desk": good.name}
    assert f"it cannot answer: {fault}" in sync.reasons()[bad.name]
    assert len(removed) == 1, "loaded once, and given back"
    shutil.rmtree(bad)
    assert sync.now() == {"desk": good.name} and not sync._refusals, "a folder that is gone is forgotten"


def test_a_pin_and_a_removal_do_not_wait_until_all_that_is_new_is_loaded(
    tmp_path: Path, sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_adapter(tmp_path, DESK, 1)
    assert sync.now() == {"desk": old.name}
    new, gone = make_adapter(tmp_path, DESK, 2), make_adapter(tmp_path, task_of("gone"))
    os.utime(old / "card.json", (1000, 1000))
    assert sync.now() == {"desk": new.name, "gone": gone.name}
    others = {name: make_adapter(tmp_path, task_of(name)) for name in ("a-new", "b-new", "z-new")}
    newest = make_adapter(tmp_path, task_of("z-new"), 2)
    os.utime(others["z-new"] / "card.json", (1000, 1000))
    write_pins(tmp_path, {"desk": old.name})
    shutil.rmtree(gone)
    seen = []

    async def warm_up(version: Any) -> None:
        seen.append({info.task: info.adapter for info in sync.tasks()})

    monkeypatch.setattr(sync.model, "_warm_up", warm_up)
    assert asyncio.run(sync.refresh(load_s=0.0)) is False  # one is loaded, the others at the next looks
    assert seen == [{"desk": old.name}]
    made = make_adapter(tmp_path, DESK, 3)  # of what is answered already: first
    write_pins(tmp_path, {"desk": made.name})
    assert asyncio.run(sync.refresh(load_s=0.0)) is False
    assert {info.task: info.adapter for info in sync.tasks()} == {"a-new": others["a-new"].name, "desk": made.name}
    assert [asyncio.run(sync.refresh(load_s=0.0)) for _ in range(2)] == [False, True]
    assert sync.now() == {
        "a-new": others["a-new"].name,
        "b-new": others["b-new"].name,
        "desk": made.name,
        "z-new": newest.name,
    }


def test_a_version_that_is_replaced_in_one_go_answers_until_the_new_one_is_loaded(
    tmp_path: Path, sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_adapter(tmp_path, DESK, 1)
    assert sync.now() == {"desk": old.name}
    shutil.rmtree(old)
    new, other = make_adapter(tmp_path, DESK, 2), make_adapter(tmp_path, task_of("a-new"))
    seen = []

    async def warm_up(version: Any) -> None:
        seen.append([(info.task, info.adapter) for info in sync.tasks()])

    monkeypatch.setattr(sync.model, "_warm_up", warm_up)
    assert sync.now() == {"a-new": other.name, "desk": new.name}
    assert seen == [[("desk", old.name)], [("desk", new.name)]]

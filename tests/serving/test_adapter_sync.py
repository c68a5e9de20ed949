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
from fourshot.engine.models import resolve_model
from fourshot.engine.tokens import load_tokenizer
from fourshot.pipeline.tasks.types import Example
from fourshot.serving.app.adapter_sync import AdapterSync
from fourshot.serving.app.registry import InContext, Registry, write_in_context, write_pins
from fourshot.serving.testing.adapters import make_adapter, task_of

DESK = task_of("desk")
ON = "answered on, by the copy that was loaded before"


class Sync(AdapterSync):
    """Loads nothing."""

    def __init__(self, root: Path) -> None:
        async def nothing(*_: Any, **__: Any) -> None:
            pass

        engine = SimpleNamespace(generate=nothing, add_lora=nothing, remove_lora=nothing)
        models, scorer = SimpleNamespace(lora_requests={}), SimpleNamespace(score=nothing)
        super().__init__(
            Registry(root, resolve_model(None)),
            engine=engine,
            models=models,
            tokenizer=None,
            scorer=scorer,  # type: ignore[arg-type]
            staging=root / ".staging",
            base_shapes={},
            largest_rank=8,
            settings=EngineSettings(model="fake"),
        )

    def _labels(self, source: Any) -> Any:
        return {"adapter": None, "icl": None}

    async def _load(self, name: str, folder: Path) -> Any:
        return SimpleNamespace(lora_name=name, lora_int_id=1)

    async def _warm_up(self, version: Any) -> None:
        pass

    def now(self) -> dict[str, str]:
        """By task, after another look at the folder: what answers."""
        asyncio.run(self.refresh())
        return {info.task: info.adapter for info in self.tasks()}

    def why(self) -> dict[str, str]:
        return {one.path: one.reason for one in self.refused()}


@pytest.fixture
def sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sync:
    monkeypatch.setattr("fourshot.serving.app.adapter_sync.stage", lambda folder, card, staging, *_: staging)
    return Sync(tmp_path)


def cut(adapter: Path) -> None:
    os.truncate(adapter / "adapter_model.safetensors", 50_000)


def unreadable_card(adapter: Path) -> None:
    (adapter / "card.json").write_text('{"name": ')


def no_weights(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()


def other_weights(adapter: Path) -> None:
    with (adapter / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(1000))


@pytest.mark.parametrize("damage", [cut, unreadable_card, no_weights, other_weights])
def test_a_task_whose_only_version_is_damaged_answers_on_and_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    monkeypatch.setattr("fourshot.serving.app.adapter_sync.stage", lambda folder, card, staging, *_: staging)
    root = tmp_path / "served"
    root.mkdir()
    adapter = make_adapter(root, DESK)
    sync = Sync(root)
    assert sync.now() == {"desk": adapter.name} and sync.why() == {}
    whole = shutil.copytree(adapter, tmp_path / "whole")
    damage(adapter)
    with caplog.at_level(logging.WARNING, "fourshot.serving"):
        for _ in range(2):
            assert sync.now() == {"desk": adapter.name}
    assert ON in sync.why()[adapter.name] and sync.damaged == {"desk"}
    assert [ON in record.message for record in caplog.records] == [True]  # once
    shutil.rmtree(adapter)
    shutil.copytree(whole, adapter)
    assert sync.now() == {"desk": adapter.name} and sync.why() == {} and not sync.damaged
    damage(adapter)
    assert sync.now() == {"desk": adapter.name}
    shutil.rmtree(adapter)  # taken away is no damage
    assert sync.now() == {}


def test_what_was_loaded_answers_on_before_an_older_version_and_not_before_a_newer(tmp_path: Path, sync: Sync) -> None:
    old, new = make_adapter(tmp_path, DESK, 1), make_adapter(tmp_path, DESK, 2)
    os.utime(old / "card.json", (1000, 1000))
    assert sync.now() == {"desk": new.name}
    cut(new)
    assert sync.now() == {"desk": new.name}
    write_pins(tmp_path, {"desk": old.name})
    assert sync.now() == {"desk": old.name}
    write_pins(tmp_path, {})
    assert sync.now() == {"desk": old.name}  # the damaged one has left
    newest = make_adapter(tmp_path, DESK, 3)
    assert sync.now() == {"desk": newest.name}
    cut(newest)
    shutil.copytree(make_adapter(tmp_path / ".made", DESK, 3), tmp_path / "copy-of-it")
    assert sync.now() == {"desk": newest.name} and ON not in sync.why()[newest.name]  # a whole copy lies there


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
    assert ON in sync.why()[file.name] and "cannot be read" in sync.why()["pins.json"]
    file.unlink()
    (tmp_path / "pins.json").unlink()
    assert sync.now() == {"mood": second.name}


def test_in_context_is_not_offered_where_the_examples_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fourshot.serving.app.adapter_sync.stage", lambda folder, card, staging, *_: staging)
    sync = Sync(tmp_path)
    sync._tokenizer = load_tokenizer(model)
    monkeypatch.setattr(sync, "_labels", partial(AdapterSync._labels, sync))
    many = task_of("many", [f"change the setting {number}" for number in range(150)])
    for task in (DESK, many):
        texts = [(f"please {label.word}, {turn}", label.name) for label in task.labels for turn in range(4)]
        shots = tuple(Example(text=text, label=label) for text, label in texts)
        write_in_context(tmp_path, InContext(task=task, shots=shots))
    with caplog.at_level(logging.WARNING, "fourshot.serving"):
        assert sync.now() == {"desk": ""}
    assert "task many cannot be answered in context: its 600 examples need " in caplog.text
    adapter = make_adapter(tmp_path, many, verbalizer="token", shots=shots)
    assert sync.now() == {"desk": "", "many": adapter.name}
    assert {info.task: info.methods for info in sync.tasks()} == {"desk": ["icl"], "many": ["adapter"]}
    assert [len(one.tokens) for one in sync.current["many"].labels["adapter"].questions(128)] == [128, 22]

"""`--hot`: adapters that stay in their slot, where the engine's memory holds fewer adapters than the folder."""

import asyncio
import logging
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourshot.serving.models.base_model import BaseModel
from fourshot.serving.testing.adapters import make_adapter, task_of
from tests.serving.test_adapter_sync import Sync

MOST = 2  # adapters in memory


class LeastRecentlyUsed:
    """Memory for adapters, as vLLM's worker has it. Source: vllm/lora/worker_manager.py, `add_adapter`, and
    vllm/utils/cache.py, `pin`.
    """

    def __init__(self) -> None:
        self.held: OrderedDict[int, Any] = OrderedDict()
        self.pinned: set[int] = set()
        self.is_full_of_others = False

    async def add_lora(self, lora: Any) -> None:
        if lora.lora_int_id not in self.held and len(self.held) == MOST:
            del self.held[next(number for number in self.held if number not in self.pinned)]
        self.held[lora.lora_int_id] = lora
        self.held.move_to_end(lora.lora_int_id)

    async def pin_lora(self, number: int) -> bool:
        if number not in self.held or self.is_full_of_others:
            raise ValueError(f"Pinning failed. LoRA {number} is not registered.")
        self.pinned.add(number)
        return True

    async def remove_lora(self, number: int) -> None:
        self.held.pop(number, None)


@pytest.fixture
def sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sync:
    async def load(model: BaseModel, name: str, folder: Path) -> Any:
        lora = SimpleNamespace(lora_name=name, lora_int_id=next(model._ids))
        await model._engine.add_lora(lora)
        return lora

    monkeypatch.setattr("fourshot.serving.models.base_model.stage", lambda folder, card, staging, *_: staging)
    monkeypatch.setattr("tests.serving.test_adapter_sync.FakeModel._load", load)
    sync = Sync(tmp_path)
    sync.model._hot = {"a-hot"}
    return sync


def in_slots(engine: LeastRecentlyUsed) -> list[str]:
    return [engine.held[number].lora_name for number in engine.pinned]


def test_a_hot_adapter_is_kept_though_others_pushed_it_out_while_they_were_loaded(tmp_path: Path, sync: Sync) -> None:
    sync.model._engine = engine = LeastRecentlyUsed()
    hot = make_adapter(tmp_path, task_of("a-hot"))
    for number in range(MOST + 1):
        make_adapter(tmp_path, task_of(f"task-{number}"))
    assert len(sync.now()) == MOST + 2
    assert in_slots(engine) == [hot.name]


def test_one_that_cannot_be_kept_is_answered_all_the_same_and_tried_again(
    tmp_path: Path, sync: Sync, caplog: pytest.LogCaptureFixture
) -> None:
    sync.model._engine = engine = LeastRecentlyUsed()
    engine.is_full_of_others = True
    hot = make_adapter(tmp_path, task_of("a-hot"))
    with caplog.at_level(logging.WARNING, "fourshot.serving"):
        for _ in range(2):
            assert sync.now() == {"a-hot": hot.name}
    assert caplog.text.count(f"{hot.name} cannot be kept in a slot yet (--hot): Pinning failed") == 1
    engine.is_full_of_others = False
    version: Any = sync.current["a-hot"][0]
    version.pin_from = 0.0
    asyncio.run(sync.refresh())
    assert in_slots(engine) == [hot.name]

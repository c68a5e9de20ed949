"""Whose weights lie in a slot: those of the adapter that is asked, whatever failed or was pinned before."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fourshot.engine.core import Adapter
from fourshot.engine.errors import AdapterError
from tests.engine.prompts import LABELS, ZERO_SHOT

pytest.importorskip("vllm")
from fourshot.engine.vllm_engine import VllmEngine
from fourshot.engine.vllm_seams import lora_loads


def renamed(adapter: Adapter, name: str) -> Adapter:
    """The same weights, which vLLM loads once more."""
    return Adapter(name=name, path=adapter.path)


@pytest.fixture
def pinned(vllm_engine: VllmEngine, adapters: tuple[Adapter, Adapter]) -> Iterator[Adapter]:
    """In its slot, one of two; unloaded at the end, for there is no other way to unpin it."""
    adapter = renamed(adapters[0], "pinned")
    vllm_engine.score(ZERO_SHOT[:1], LABELS, adapter)
    number = vllm_engine._loras[adapter.name].lora_int_id
    assert vllm_engine._model.pin_lora(number)
    yield adapter
    vllm_engine._model.remove_lora(number)
    del vllm_engine._loras[adapter.name]


def test_an_adapter_that_fits_nowhere_leaves_nothing_to_the_next_one(
    vllm_engine: VllmEngine, adapters: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    """vLLM notices it in the middle of its slot, and believes from then on that it has an adapter of that number."""
    expected = vllm_engine.score(ZERO_SHOT, LABELS, adapters[1])
    shutil.copytree(adapters[0].path, tmp_path / "wide")
    weights = load_file(tmp_path / "wide" / "adapter_model.safetensors")
    name = max(name for name in weights if "lora_A" in name)
    weights[name] = torch.cat([weights[name]] * 2, dim=1)
    save_file(weights, tmp_path / "wide" / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterError, match="cannot load adapter 'wide'"):
        vllm_engine.score(ZERO_SHOT, LABELS, Adapter(name="wide", path=str(tmp_path / "wide")))
    after = vllm_engine.score(ZERO_SHOT, LABELS, renamed(adapters[1], "the-next"))
    np.testing.assert_allclose(after, expected, atol=0.02)


def test_a_pinned_adapter_gives_way_to_a_step_that_needs_all_slots_and_comes_back(
    vllm_engine: VllmEngine, adapters: tuple[Adapter, Adapter], pinned: Adapter
) -> None:
    others = [renamed(adapter, f"busy-{number}") for number, adapter in enumerate(adapters)]
    alone = [vllm_engine.score(ZERO_SHOT[:1], LABELS, adapter) for adapter in others]
    together = vllm_engine.score([ZERO_SHOT[0]] * 2, LABELS, others)
    np.testing.assert_allclose(together, np.concatenate(alone), atol=0.1)
    vllm_engine.score(ZERO_SHOT[1:2], LABELS, others[0])  # a step that leaves it room
    before = lora_loads.counts()
    vllm_engine.score(ZERO_SHOT[:1], LABELS, pinned)
    assert {kind: uses - before[kind][0] for kind, (uses, _) in lora_loads.counts().items()} == {
        "cold": 0,
        "memory": 0,
        "slot": 1,
    }

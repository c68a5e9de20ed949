"""The average of adapters adds the mean of what they add, to vLLM as to PEFT."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fourshot.engine.adapters import rank_of
from fourshot.engine.core import Adapter, Engine
from fourshot.engine.vllm_seams.adapter_check import check_adapter
from fourshot.training.lora import averaging
from fourshot.training.lora.averaging import average, can_average
from tests.training import notes


def changes(adapter: Adapter) -> dict[str, torch.Tensor]:
    """By module, what an adapter of alpha 32 adds to its weights."""
    factors = {
        key: value.double() for key, value in load_file(Path(adapter.path) / "adapter_model.safetensors").items()
    }
    modules = sorted({key.partition(".lora_")[0] for key in factors})
    scale = 32 / rank_of(adapter)
    return {
        module: scale * factors[f"{module}.lora_B.weight"] @ factors[f"{module}.lora_A.weight"] for module in modules
    }


def test_it_adds_the_mean_of_what_its_members_add(adapters: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    averaged = average(adapters, tmp_path)
    assert rank_of(averaged) == 16
    check_adapter(Path(averaged.path))
    first, second, both = (changes(adapter) for adapter in (*adapters, averaged))
    assert both.keys() == first.keys()
    for module in both:
        torch.testing.assert_close(both[module], (first[module] + second[module]) / 2)


def test_an_average_of_one_adapter_twice_answers_as_it_does(
    reference_engine: Engine, adapters: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    twice = average([adapters[0], adapters[0]], tmp_path)
    prompts = [notes.prompt(text) for text in notes.UNSEEN]
    by_one, by_both, by_base = (
        reference_engine.score(prompts, notes.WORDS, adapter) for adapter in (adapters[0], twice, None)
    )
    rounding = np.abs(by_both - by_one).max()
    assert rounding < 0.3 and rounding < np.abs(by_base - by_one).max() / 5, "it adds much, and the same"


def test_it_is_made_once_and_named_by_its_members(adapters: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    first = average(adapters, tmp_path)
    weights = Path(first.path) / "adapter_model.safetensors"
    written_at = weights.stat().st_mtime_ns
    assert average(adapters[::-1], tmp_path) == first and weights.stat().st_mtime_ns == written_at
    assert [path.name for path in tmp_path.iterdir()] == [first.name], "and nothing half-made lies beside it"
    assert average([adapters[0], adapters[0]], tmp_path).name != first.name


def test_one_whose_weights_are_gone_or_cut_is_made_again(adapters: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    """Some programs that copy or clean up leave out large files, and what lies beside them stays."""
    weights = Path(average(adapters, tmp_path).path) / "adapter_model.safetensors"
    content = weights.read_bytes()
    for size in (None, len(content) // 2):
        if size is None:
            weights.unlink()
        else:
            os.truncate(weights, size)
        average(adapters, tmp_path)
        assert weights.read_bytes() == content


def test_a_disk_without_room_is_an_error_of_the_disk_and_leaves_nothing(
    adapters: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, usual[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            average(adapters, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not list(tmp_path.iterdir())


def test_more_rank_than_vllm_serves_is_not_averaged(
    adapters: tuple[Adapter, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_average(adapters) and not can_average(adapters[:1])
    monkeypatch.setattr(averaging, "LARGEST_RANK", 15)
    assert not can_average(adapters)

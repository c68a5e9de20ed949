"""Adapters read at once are those that vLLM reads tensor by tensor, and what is wrong with a file is still told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

vllm = pytest.importorskip("vllm")
from vllm.platforms import current_platform  # noqa: E402

if not current_platform.is_cpu():
    pytest.skip("replaced on the CPU build only", allow_module_level=True)

from vllm.lora.lora_model import LoRAModel  # noqa: E402
from vllm.lora.lora_weights import LoRALayerWeights  # noqa: E402
from vllm.lora.peft_helper import PEFTHelper  # noqa: E402

from fourshot.engine.vllm_seams import contract, lora_files  # noqa: E402

WEIGHTS, CONFIG = lora_files.WEIGHTS, "adapter_config.json"
MODULES = {"q_proj", "down_proj"}
SHAPES = {"self_attn.q_proj": (16, 24), "mlp.down_proj": (40, 16)}  # in, out


@pytest.fixture
def by_vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What vLLM read itself, with our reading put in."""
    read: list[str] = []
    theirs = LoRAModel.from_lora_tensors.__func__

    def listen(cls: Any, lora_model_id: int, *args: Any, **options: Any) -> LoRAModel:
        read.append(str(lora_model_id))
        return theirs(cls, lora_model_id, *args, **options)

    was_in = LoRAModel.from_local_checkpoint.__func__ is lora_files._from_local_checkpoint
    monkeypatch.setattr(lora_files, "_kinds", {})
    monkeypatch.setattr(LoRAModel, "from_lora_tensors", classmethod(listen))
    assert lora_files.apply(True) and lora_files.apply(True)
    yield read
    lora_files.apply(was_in)


def save(folder: Path, seed: int, dtype: torch.dtype = torch.bfloat16, **config: Any) -> Path:
    """An adapter of two layers, as PEFT saves them."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    weights = {}
    for number in range(2):
        for name, (width, out) in SHAPES.items():
            prefix = f"base_model.model.model.layers.{number}.{name}"
            weights[f"{prefix}.lora_A.weight"] = torch.randn(8, width).to(dtype)
            weights[f"{prefix}.lora_B.weight"] = torch.randn(out, 8).to(dtype)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    plain = {"peft_type": "LORA", "r": 8, "lora_alpha": 32, "target_modules": sorted(MODULES)}
    (folder / CONFIG).write_text(json.dumps(plain | config))
    return folder


def load(folder: Path, number: int, modules: set[str] = MODULES, dtype: torch.dtype = torch.bfloat16) -> LoRAModel:
    """As vLLM's worker does."""
    return LoRAModel.from_local_checkpoint(
        str(folder),
        modules,
        peft_helper=PEFTHelper.from_local_dir(str(folder), None),
        lora_model_id=number,
        device="cpu",
        dtype=dtype,
        model_vocab_size=100,
        weights_mapper=None,
        skip_prefixes=None,
        moe_ep_spec=None,
    )


def check(model: LoRAModel, folder: Path, dtype: torch.dtype = torch.bfloat16, scaling: float = 4) -> None:
    weights = load_file(folder / WEIGHTS)
    assert len(model.loras) == 4
    for name, layer in model.loras.items():
        prefix = f"base_model.model.{name}"
        assert torch.equal(layer.lora_a, weights[f"{prefix}.lora_A.weight"].to(dtype))
        assert torch.equal(layer.lora_b, weights[f"{prefix}.lora_B.weight"].to(dtype))
        assert (layer.module_name, layer.rank, layer.scaling) == (name, 8, scaling)


@pytest.mark.parametrize("saved", [torch.bfloat16, torch.float32])
def test_all_but_the_first_of_a_kind_are_read_at_once(by_vllm: list[str], tmp_path: Path, saved: torch.dtype) -> None:
    folders = [save(tmp_path / str(seed), seed, saved) for seed in range(3)]
    for number, folder in enumerate(folders, 1):
        model = load(folder, number)
        check(model, folder)
        assert (model.id, model.rank) == (number, 8)
    assert by_vllm == ["1"]
    again = load(folders[0], 4)
    for layer in model.loras.values():
        layer.lora_b *= 3  # as vLLM does with its scale
    check(again, folders[0])
    check(load(folders[2], 5), folders[2])


def test_what_decides_how_a_file_is_read_makes_it_another_kind(by_vllm: list[str], tmp_path: Path) -> None:
    plain, scaled = save(tmp_path / "plain", 0), save(tmp_path / "scaled", 1, lora_alpha=16)
    check(load(plain, 1), plain)
    check(load(scaled, 2), scaled, scaling=2)
    check(load(plain, 3, dtype=torch.float32), plain, torch.float32)
    check(load(plain, 4), plain)
    assert by_vllm == ["1", "2", "3"]
    with pytest.raises(ValueError, match="expected target modules"):
        load(plain, 5, {"q_proj"})


@pytest.mark.parametrize("cut", [-1, -200, 100])
def test_a_file_of_another_length_is_left_to_vllm_which_says_what_is_wrong(
    by_vllm: list[str], tmp_path: Path, cut: int
) -> None:
    load(save(tmp_path / "whole", 0), 1)
    damaged = save(tmp_path / "damaged", 1)
    content = (damaged / WEIGHTS).read_bytes()
    (damaged / WEIGHTS).write_bytes(content[:cut])
    with pytest.raises(Exception, match=r"(?i)header|incomplete|invalid|short"):
        load(damaged, 2)
    (damaged / WEIGHTS).write_bytes(content + b"more")
    with pytest.raises(Exception, match=r"(?i)header|incomplete|invalid"):
        load(damaged, 3)
    (damaged / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="doesn't contain tensors"):
        load(damaged, 4)


def test_what_vllm_makes_otherwise_of_a_file_is_always_left_to_it(
    by_vllm: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (save(tmp_path / str(seed), seed) for seed in range(2))

    from_config = LoRALayerWeights.from_config

    def twice(*args: Any, **options: Any) -> LoRALayerWeights:
        layer = from_config(*args, **options)
        layer.scaling *= 2
        return layer

    monkeypatch.setattr(LoRALayerWeights, "from_config", twice)
    check(load(first, 1), first, scaling=8)
    check(load(second, 2), second, scaling=8)
    assert by_vllm == ["1"], "scales are taken over as vLLM worked them out"

    listen = LoRAModel.from_lora_tensors.__func__

    def negated(cls: Any, *args: Any, **options: Any) -> LoRAModel:
        model = listen(cls, *args, **options)
        for layer in model.loras.values():
            layer.lora_b = -layer.lora_b
        return model

    monkeypatch.setattr(lora_files, "_kinds", {})
    monkeypatch.setattr(LoRAModel, "from_lora_tensors", classmethod(negated))
    load(first, 3)
    load(second, 4)
    assert by_vllm == ["1", "3", "4"]


def test_no_more_kinds_are_kept_than_are_needed(
    by_vllm: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_files, "MOST_KINDS", 2)
    for alpha in range(1, 6):
        load(save(tmp_path / str(alpha), alpha, lora_alpha=alpha), alpha)
        assert len(lora_files._kinds) <= 2
    assert by_vllm == list("12345")


def test_taken_out_again_vllm_reads_every_file(by_vllm: list[str], tmp_path: Path) -> None:
    folder = save(tmp_path / "one", 0)
    assert not lora_files.apply(False)
    for number in (1, 2):
        check(load(folder, number), folder)
    assert by_vllm == ["1", "2"]


def test_the_contract_still_holds_with_our_reading_put_in(by_vllm: list[str]) -> None:
    assert contract.faults(lora_files.SEAM) == []


def test_a_call_that_leaves_out_what_a_worker_gives_is_vllm_s_own(by_vllm: list[str], tmp_path: Path) -> None:
    folder = save(tmp_path / "one", 0)
    helper = PEFTHelper.from_local_dir(str(folder), None)
    for _ in range(2):
        check(LoRAModel.from_local_checkpoint(str(folder), MODULES, helper, device="cpu"), folder)
    assert len(by_vllm) == 2 and not lora_files._kinds

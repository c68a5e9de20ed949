"""Memory: the estimate is near what is kept, and running out of it costs speed, not the result."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from fourshot.engine.errors import FourshotError
from fourshot.engine.labels import label_tokens
from fourshot.training.lora import label_loss, memory
from fourshot.training.lora.label_loss import LabelLoss
from fourshot.training.lora.llama import LlamaDecoder
from fourshot.training.lora.memory import (
    MOST_ROW_TOKENS,
    bytes_per_token,
    check_base_fits,
    is_out_of_memory,
    row_tokens,
    text_bytes,
)
from fourshot.training.lora.packing import PackedRow, pack
from fourshot.training.lora.train import LoraTrainer
from tests.training import notes
from tests.training.lora.test_fast import tiny

GIVEN = notes.examples()


@pytest.fixture
def wrapped(trainer: LoraTrainer) -> Any:
    """The tokenizer's vocabulary on two narrow layers in float32, with an adapter that does something."""
    return tiny(more={"vocab_size": len(trainer.tokenizer)})


def loss_of(trainer: LoraTrainer, wrapped: Any) -> LabelLoss:
    tokens = label_tokens(trainer.tokenizer, notes.WORDS)
    return LabelLoss(trainer.tokenizer, wrapped, GIVEN, tokens, whole_text=False, decoder=LlamaDecoder(wrapped))


def backward(loss: LabelLoss) -> tuple[float, list[Tensor]]:
    value, *_ = loss.backward(range(len(GIVEN)), torch.amp.GradScaler("cpu", enabled=False))
    gradients = [parameter.grad.clone() for parameter in loss.parameters if parameter.grad is not None]
    assert len(gradients) == len(loss.parameters)
    return value, gradients


class Memory:
    """Raises what torch raises where a row is longer than fits."""

    def __init__(self, fits: int, fits_checkpointed: int) -> None:
        self.fits, self.fits_checkpointed, self.refused, self._hidden = fits, fits_checkpointed, 0, LabelLoss._hidden

    def __call__(self, loss: LabelLoss, row: PackedRow, positions: Tensor) -> Tensor:
        assert loss._written_out
        max_tokens = self.fits_checkpointed if loss._written_out.checkpointing else self.fits
        if row.prefix_length + sum(row.lengths) > max_tokens and self.refused < 50:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self._hidden(loss, row, positions)


def limit(monkeypatch: pytest.MonkeyPatch, fits: int, fits_checkpointed: int) -> Memory:
    limited = Memory(fits, fits_checkpointed)
    monkeypatch.setattr(LabelLoss, "_hidden", lambda loss, row, positions, states: limited(loss, row, positions))
    return limited


def longest(loss: LabelLoss) -> int:
    return len(loss._prefix) + max(map(len, loss._tails))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_out_of_memory_gives_shorter_rows_and_the_same_gradients(
    trainer: LoraTrainer, wrapped: Any, monkeypatch: pytest.MonkeyPatch, checkpointed: bool
) -> None:
    value, expected = backward(loss_of(trainer, wrapped))
    loss = loss_of(trainer, wrapped)
    max_tokens = longest(loss)
    limited = limit(monkeypatch, 0 if checkpointed else max_tokens + 5, max_tokens + 5)
    halved, gradients = backward(loss)
    assert limited.refused > 1 and loss.most_tokens < MOST_ROW_TOKENS
    assert loss._written_out and loss._written_out.checkpointing is checkpointed
    assert halved == pytest.approx(value, rel=1e-5)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


def test_a_text_too_long_by_the_estimate_is_computed_twice_from_the_beginning(
    trainer: LoraTrainer, wrapped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, the kernel may end the process before torch notices that there is no memory."""
    value, expected = backward(loss_of(trainer, wrapped))
    config = wrapped.get_base_model().config
    needed = text_bytes(config, longest(loss_of(trainer, wrapped)))
    for free, checkpointed in ((needed * 2, False), (needed, True)):
        monkeypatch.setattr(label_loss, "free_bytes", lambda device, free=free: free)
        loss = loss_of(trainer, wrapped)
        assert loss._written_out and loss._written_out.checkpointing is checkpointed
        short, gradients = backward(loss)
        assert short == pytest.approx(value, rel=1e-5)
        for gradient, reference in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


def test_a_text_that_does_not_fit_at_all_is_said(
    trainer: LoraTrainer, wrapped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = loss_of(trainer, wrapped)
    limit(monkeypatch, 0, 0)
    with pytest.raises(
        FourshotError, match=rf"single prompt of {longest(loss)} tokens: CUDA out of memory.*max_text_words\), close"
    ):
        backward(loss)
    loss._shown[0] = [(3, 1)]
    with pytest.raises(FourshotError, match=r"show no shots in prompts \(annotate\.show_shots=never\)"):
        backward(loss)


def test_other_errors_pass(trainer: LoraTrainer, wrapped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(loss: LabelLoss, row: PackedRow, positions: Tensor, states: Tensor | None) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(LabelLoss, "_hidden", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        backward(loss_of(trainer, wrapped))


def test_torch_on_the_cpu_says_it_in_words_that_are_known() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60, dtype=torch.int8)
    assert is_out_of_memory(refused.value)


def test_the_estimate_is_near_what_a_forward_pass_keeps(trainer: LoraTrainer) -> None:
    from peft import LoraConfig, get_peft_model

    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=8, lora_alpha=32, target_modules=modules, task_type="CAUSAL_LM")
    wrapped = get_peft_model(trainer._base, config, autocast_adapter_dtype=False)
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    try:
        decoder = LlamaDecoder(wrapped)
        row = pack(list(range(100, 140)), [list(range(200, 230))] * 8, "cpu")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = decoder(row)  # held, or the values would be freed and their addresses used again
    finally:
        wrapped.unload()
    weights = {parameter.untyped_storage().data_ptr() for parameter in wrapped.parameters()}
    measured = sum(size for address, size in storages.items() if address not in weights) / hidden.shape[0]
    assert 0.5 < measured / bytes_per_token(trainer._base.config, sees=70) < 2


def test_rows_are_as_long_as_fits() -> None:
    vicuna = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)
    per_token = bytes_per_token(vicuna, sees=300)
    assert 3e6 < per_token < 8e6  # 2 bytes x 32 layers x (6 x 4096 + 3 x 4096 + 32 x 300 + 4 x 11008)
    assert row_tokens(vicuna, 300, free=int(2e9)) == int(0.7 * 2e9 / per_token)
    assert row_tokens(vicuna, 300, free=int(80e9)) == MOST_ROW_TOKENS


def test_a_base_counts_as_it_is_loaded_whatever_its_files_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 300_000)
    save_file({"w": torch.zeros(100, 1000)}, tmp_path / "model.safetensors")  # 400,000 bytes, 200,000 in bf16
    check_base_fits(tmp_path, "cuda", 2)
    with pytest.raises(FourshotError, match="on this GPU"):
        check_base_fits(tmp_path, "cuda", 4)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FourshotError, match="on this machine"):
        check_base_fits(tmp_path, "cpu", 2)


def test_on_a_gpu_a_base_is_read_to_where_it_computes(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1 << 40)
    loaded = transformers.LlamaForCausalLM(LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1))

    def load(path: str, **more: Any) -> Any:
        options.append(more)
        return loaded, {"missing_keys": (), "mismatched_keys": ()}

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    LoraTrainer(model)
    expected = {"dtype": torch.float16, "attn_implementation": "sdpa", "device_map": {"": "cuda"}}
    assert len(options) == 1 and options[0].items() >= expected.items()


def test_a_base_that_does_not_fit_is_refused_before_it_is_loaded(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_base_fits(model, "cpu", 2)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 100_000_000)
    with pytest.raises(FourshotError, match=r"needs 0\.\d GB of memory, but 0\.1 GB are free"):
        LoraTrainer(model)

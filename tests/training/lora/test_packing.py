"""Packing must change nothing but the time: every text gets what it would get in a row of its own."""

from collections.abc import Sequence
from typing import Any

import pytest

from fourshot.engine.labels import label_tokens
from fourshot.engine.tokens import encode_prompt
from fourshot.training.lora.examples import TrainingExample
from fourshot.training.lora.label_loss import LabelLoss
from fourshot.training.lora.packing import micro_batches, pack, shared_prefix_length
from fourshot.training.lora.precision import Precision
from fourshot.training.lora.train import LoraTrainer
from tests.training import notes

LONG_WORDS = ("pleasantly warm", "bitterly cold")


def test_the_shared_prefix_leaves_every_text_a_token_of_its_own() -> None:
    assert shared_prefix_length([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert shared_prefix_length([[1, 2], [1, 2, 3]]) == 1
    assert shared_prefix_length([[1, 2, 3], [1, 2, 3]]) == 2
    assert shared_prefix_length([[7, 8]]) == 1
    assert shared_prefix_length([[1], [2]]) == 0


def test_rows_hold_no_more_tokens_than_allowed_and_every_text_once() -> None:
    lengths = [5, 4, 9, 1, 1, 30, 2]
    runs = list(micro_batches(lengths, prefix_length=6, most_tokens=16))
    assert [index for run in runs for index in run] == list(range(len(lengths)))
    assert all(6 + sum(lengths[index] for index in run) <= 16 or len(run) == 1 for run in runs)
    assert runs == [[0, 1], [2, 3], [4], [5], [6]]


def test_a_long_text_shares_its_row_with_few_short_ones() -> None:
    """Attention pads each of them to its length: eight texts of 1,000 tokens, where one has them."""
    for lengths, split in (([1000, *[10] * 7], [4, 4]), ([*[10] * 7, 1000], [7, 1]), ([200] * 8, [8])):
        runs = list(micro_batches(lengths, prefix_length=27, most_tokens=2048))
        assert [len(run) for run in runs] == split


def test_a_mask_is_built_where_the_row_is() -> None:
    """On a GPU one built on the CPU costs 2 to 25 ms a step; "meta" stands for it."""
    import torch
    from torch.overrides import TorchFunctionMode

    devices = set[str]()

    class Watched(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                devices.add(result.device.type)
            return result

    row = pack([1, 2], [[3, 4], [5]], "meta")
    with Watched():
        mask = row.mask(torch.float32)
    assert mask.shape == (1, 1, 32, 32) and devices == {"meta"}
    seen = pack([1, 2], [[3, 4], [5]], "cpu").mask(torch.float32)[0, 0, :5, :5] == 0
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


@pytest.fixture(scope="module")
def exact_trainer(decided_model: str) -> LoraTrainer:
    """In float32, where packed and unpacked may differ by rounding only."""
    patch = pytest.MonkeyPatch()
    patch.setattr("fourshot.training.lora.train.choose_precision", lambda *_: Precision(base="float32"))
    trainer = LoraTrainer(decided_model)
    patch.undo()
    return trainer


def adapted(trainer: LoraTrainer, modules: Sequence[str] = ("q_proj", "v_proj", "down_proj")) -> Any:
    """The base with an adapter that is far enough from nothing for all its weights to have gradients."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=32, target_modules=list(modules), task_type="CAUSAL_LM")
    wrapped = get_peft_model(trainer._base, config, autocast_adapter_dtype=False)
    for name, weights in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.02)
    return wrapped


def gradients(wrapped: Any) -> Any:
    """All gradients as one vector, taken away from the parameters."""
    import torch

    flat = torch.cat([p.grad.float().flatten() for p in wrapped.parameters() if p.requires_grad])
    wrapped.zero_grad(set_to_none=True)
    return flat


def packed(
    trainer: LoraTrainer, wrapped: Any, examples: list[TrainingExample], words: tuple[str, ...], whole_text: bool
) -> tuple[float, Any]:
    """Loss and gradients of all examples as one batch, as the trainer computes them."""
    import torch

    tokens = label_tokens(trainer.tokenizer, words)
    loss = LabelLoss(trainer.tokenizer, wrapped, examples, tokens, whole_text=whole_text)
    value, *_ = loss.backward(range(len(examples)), torch.amp.GradScaler("cpu", enabled=False))
    return value, gradients(wrapped)


def one_by_one(
    trainer: LoraTrainer, wrapped: Any, examples: list[TrainingExample], words: tuple[str, ...], whole_text: bool
) -> tuple[float, Any]:
    """The same by the book: each text in a row of its own, through the model as transformers calls it."""
    import torch

    tokens = label_tokens(trainer.tokenizer, words)
    total, weight = 0.0, sum(example.weight for example in examples)
    for example in examples:
        prompt = encode_prompt(trainer.tokenizer, example.prompt)
        answer = tokens.ids[example.target]
        ids = torch.tensor([[*prompt, *answer]])
        logits = wrapped(input_ids=ids).logits[0, :-1].float()
        targets = ids[0, 1:]
        if not whole_text:
            logits, targets = logits[len(prompt) - 1 :], targets[len(prompt) - 1 :]
            if tokens.one_step:
                logits, targets = logits[:, [ids[0] for ids in tokens.ids]], torch.tensor([example.target])
        loss = torch.nn.functional.cross_entropy(logits, targets) * example.weight / weight
        loss.backward()
        total += float(loss.detach())
    return total, gradients(wrapped)


CASES = [(notes.WORDS, False), (LONG_WORDS, False), (notes.WORDS, True)]


@pytest.mark.parametrize(("words", "whole_text"), CASES, ids=["one token", "several tokens", "whole text"])
@pytest.mark.parametrize("most_tokens", [2048, 60], ids=["one row", "several rows"])
def test_packed_rows_give_the_loss_and_gradients_of_rows_of_their_own(
    exact_trainer: LoraTrainer,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    whole_text: bool,
    most_tokens: int,
) -> None:
    import torch

    monkeypatch.setattr("fourshot.training.lora.memory.MOST_ROW_TOKENS", most_tokens)
    examples = notes.examples(notes.WARM[:2], notes.COLD[:2])
    examples[1] = TrainingExample(prompt=examples[1].prompt, target=examples[1].target, weight=3.0)
    wrapped = adapted(exact_trainer)
    try:
        loss, slope = packed(exact_trainer, wrapped, examples, words, whole_text)
        expected_loss, expected_slope = one_by_one(exact_trainer, wrapped, examples, words, whole_text)
    finally:
        wrapped.unload()
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert float(expected_slope.norm()) > 0.01
    assert float((slope - expected_slope).norm() / expected_slope.norm()) < 1e-3
    assert torch.isfinite(slope).all()


def test_in_bfloat16_packing_costs_no_more_than_rounding(decided_trainer: LoraTrainer) -> None:
    """bfloat16 has 8 bits: losses within 2 %, gradients within 10 % of each other (cosine 0.99)."""
    import torch

    examples = notes.examples(notes.WARM[:2], notes.COLD[:2])
    wrapped = adapted(decided_trainer)
    try:
        loss, slope = packed(decided_trainer, wrapped, examples, notes.WORDS, False)
        expected_loss, expected_slope = one_by_one(decided_trainer, wrapped, examples, notes.WORDS, False)
    finally:
        wrapped.unload()
    assert loss == pytest.approx(expected_loss, rel=0.02)
    assert float(torch.nn.functional.cosine_similarity(slope, expected_slope, dim=0)) > 0.99
    assert float(slope.norm()) == pytest.approx(float(expected_slope.norm()), rel=0.1)

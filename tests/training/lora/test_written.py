"""A text in place of a label: the loss is on what is written, and the model learns where that ends."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from fourshot.engine.errors import InputError
from fourshot.engine.tokens import encode_prompt
from fourshot.training.lora.examples import TrainingExample
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.train import LoraTrainer
from fourshot.training.lora.written import encode_written

PAIRS = {"Rome | in | Italy\n\nText:": " Rome is in Italy.", "Oslo | in | Norway\n\nText:": " In Norway lies Oslo."}
EXAMPLES = [TrainingExample(prompt=prompt, written=text) for prompt, text in PAIRS.items()]


def mean_loss(model_folder: str, tokenizer: Any, examples: list[TrainingExample]) -> float:
    """Of the model as it is: over each text's tokens and its end, then over the texts; nats."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    losses = []
    for example in examples:
        begun = encode_prompt(tokenizer, example.prompt)
        ids = [*encode_prompt(tokenizer, f"{example.prompt}{example.written}"), tokenizer.eos_token_id]
        labels = [-100] * len(begun) + ids[len(begun) :]
        losses.append(float(model(torch.tensor([ids]), labels=torch.tensor([labels])).loss.detach()))
    return sum(losses) / len(losses)


def test_the_loss_is_that_of_the_written_tokens_and_the_end(
    tiny_trainer: LoraTrainer, tiny_model: str, tmp_path: Path
) -> None:
    alike = [TrainingExample(prompt="Facts:\n", written=f"{prompt}{text}") for prompt, text in PAIRS.items()]
    for examples in (EXAMPLES, alike):  # prompts that differ, and one that all share to its end
        result = tiny_trainer.train(examples, (), LoraSettings(min_steps=1, max_steps=1), tmp_path)
        assert result.probe is None
        assert result.losses[0] == pytest.approx(mean_loss(tiny_model, tiny_trainer.tokenizer, examples), rel=2e-3)


def test_what_is_written_continues_the_prompt_as_one_text(tiny_trainer: LoraTrainer) -> None:
    tokenizer = tiny_trainer.tokenizer
    prompts = [encode_prompt(tokenizer, example.prompt) for example in EXAMPLES]
    for written, text in zip(encode_written(tokenizer, EXAMPLES, prompts), PAIRS.values(), strict=True):
        assert written[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(written[:-1]) == text


def test_examples_without_a_text_or_a_label_are_refused(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 of 3 examples have a blank text"):
        tiny_trainer.train([*EXAMPLES, TrainingExample(prompt="a")], (), LoraSettings(), tmp_path)

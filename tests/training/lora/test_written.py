"""A text in place of a label: the loss is on what is written, and the model learns where that ends."""

from pathlib import Path

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


def test_the_loss_is_that_of_the_written_tokens_and_the_end(
    tiny_trainer: LoraTrainer, tiny_model: str, tmp_path: Path
) -> None:
    settings = LoraSettings(min_steps=1, max_steps=1)
    result = tiny_trainer.train(EXAMPLES, (), settings, tmp_path)
    assert result.probe is None
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), tiny_trainer.tokenizer
    losses = []
    for prompt, text in PAIRS.items():
        begun = encode_prompt(tokenizer, prompt)
        whole = [*encode_prompt(tokenizer, prompt + text), tokenizer.eos_token_id]
        labels = [-100] * len(begun) + whole[len(begun) :]
        losses.append(float(model(torch.tensor([whole]), labels=torch.tensor([labels])).loss.detach()))
    assert result.losses[0] == pytest.approx(sum(losses) / 2, rel=2e-3)


def test_what_is_written_continues_the_prompt_as_one_text(tiny_trainer: LoraTrainer) -> None:
    tokenizer = tiny_trainer.tokenizer
    prompts = [encode_prompt(tokenizer, example.prompt) for example in EXAMPLES]
    for written, text in zip(encode_written(tokenizer, EXAMPLES, prompts), PAIRS.values(), strict=True):
        assert written[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(written[:-1]) == text


def test_a_prompt_that_all_share_leaves_something_to_predict(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    same = [TrainingExample(prompt="Facts:", written=f"\n{prompt}{text}") for prompt, text in PAIRS.items()]
    settings = LoraSettings(min_steps=40, max_steps=40, learning_rate=0.05)
    losses = tiny_trainer.train(same, (), settings, tmp_path).losses
    assert losses[-1] < losses[0] / 2


def test_examples_without_a_text_or_a_label_are_refused(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 of 3 examples have nothing to be written"):
        tiny_trainer.train([*EXAMPLES, TrainingExample(prompt="a")], (), LoraSettings(), tmp_path)

"""An adapter must answer in vLLM as it did in training: one that is silently not applied looks like a bad one."""

import numpy as np
import pytest

from engine.calibration import normalise
from engine.core import Adapter, Engine
from tests.training import notes
from training.lora import LoraTrainer
from training.settings import LoraSettings


@pytest.fixture(scope="module")
def trained(trainer: LoraTrainer, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    result = trainer.train(
        notes.examples(), notes.WORDS, LoraSettings(max_steps=20), tmp_path_factory.mktemp("trained")
    )
    return Adapter(name=result.name, path=result.path)


def trainers_own(trainer: LoraTrainer, adapter: Adapter, texts: tuple[str, ...]) -> np.ndarray:
    """Label probabilities [num_texts, 2] by the trainer's copy of the base with the adapter loaded from its folder."""
    import torch
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(trainer._base, adapter.path).eval()
    words = [trainer.tokenizer(notes.prompt("") + f" {word}")["input_ids"][-1] for word in notes.WORDS]
    try:
        with torch.no_grad():
            logits = [
                wrapped(input_ids=torch.tensor([trainer.tokenizer(notes.prompt(text))["input_ids"]])).logits[0, -1]
                for text in texts
            ]
    finally:
        wrapped.unload()
    return torch.stack(logits)[:, words].float().softmax(dim=1).numpy()


def test_vllm_answers_with_the_probabilities_of_the_trainer(
    trainer: LoraTrainer, trained: Adapter, vllm_engine: Engine
) -> None:
    """Within 0.05: both compute in bfloat16, in another order."""
    prompts = [notes.prompt(text) for text in notes.UNSEEN]
    served = normalise(vllm_engine.score(prompts, notes.WORDS, trained))
    unadapted = normalise(vllm_engine.score(prompts, notes.WORDS))
    own = trainers_own(trainer, trained, notes.UNSEEN)
    assert np.abs(served - own).max() < 0.05
    assert np.abs(served - unadapted).max() > 0.2  # the adapter does something that can be missed


def test_what_was_learnt_is_what_is_served(trained: Adapter, vllm_engine: Engine) -> None:
    given = notes.examples()
    answers = vllm_engine.score([example.prompt for example in given], notes.WORDS, trained).argmax(axis=1)
    assert answers.tolist() == [example.target for example in given]

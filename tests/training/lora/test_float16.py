"""Trainings in float16, as on a GPU without bfloat16: every step counts from the first one on. Here on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fourshot.training.lora import optimize, train
from fourshot.training.lora.precision import Precision
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.train import LoraTrainer
from tests.conftest import random_llama, save_model
from tests.training import notes
from tests.training.lora.test_checkpoint import Killed, die_at

SETTINGS = LoraSettings(min_steps=12, max_steps=12, batch_size=4, learning_rate=0.01)


@pytest.fixture(scope="module")
def trainer(model: str, tmp_path_factory: pytest.TempPathFactory) -> LoraTrainer:
    """Two narrow random layers, with states of about one and logits of some nats, as trained ones have."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    random_model, tokenizer = random_llama(model, **sizes)
    with torch.no_grad():
        random_model.model.embed_tokens.weight.mul_(50)
        random_model.lm_head.weight.mul_(50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "choose_precision", lambda _: Precision(base="float16", loss_scaling=True))
        return LoraTrainer(save_model(random_model, tokenizer, tmp_path_factory.mktemp("float16")))


def scale_after(trainer: LoraTrainer, folder: Path, step: int) -> dict[str, Any]:
    """The state of the scale that a training which is killed at ``step`` leaves, a step before."""
    file = folder / "state.pt"
    with pytest.raises(Killed):
        trainer.train(
            notes.examples(), notes.WORDS, SETTINGS, folder, on_step=die_at(step), checkpoint=file, checkpoint_s=0
        )
    scaler: dict[str, Any] = torch.load(file, weights_only=True)["scaler"]
    return scaler


def test_no_step_is_skipped_and_the_loss_falls(trainer: LoraTrainer, tmp_path: Path) -> None:
    scaler = scale_after(trainer, tmp_path, 12)
    assert scaler["scale"] == optimize.LOSS_SCALE and scaler["_growth_tracker"] == 11, "one for each step"
    result = trainer.train(notes.examples(), notes.WORDS, SETTINGS, tmp_path)
    assert result.steps == 12 and sum(result.losses[-4:]) < 0.75 * sum(result.losses[:4])


def test_a_training_goes_on_with_the_scale_that_it_had(
    trainer: LoraTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimize, "LOSS_SCALE", 2.0**20)
    before = scale_after(trainer, tmp_path, 3)
    assert before["scale"] < 2.0**20, "steps that overflowed were skipped"
    monkeypatch.undo()
    after = scale_after(trainer, tmp_path, 5)
    assert optimize.LOSS_SCALE < after["scale"] <= before["scale"]

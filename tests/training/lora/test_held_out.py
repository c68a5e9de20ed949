"""The weights that do best on held-out examples are those that are saved."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from safetensors.torch import load_file

from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.trainings import hold_out
from fourshot.training.lora.examples import TrainingExample, TrainingResult
from fourshot.training.lora.held_out import HeldOut
from fourshot.training.lora.label_loss import LabelLoss
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.train import LoraTrainer
from tests.training import notes

SETTINGS = LoraSettings(min_steps=8, max_steps=8, batch_size=4, min_warmup_steps=0)
GIVEN = notes.examples()
AGREEING = notes.examples(("Steam over a bath.", "July in the desert."), ("Icicles hang from the roof.", "Sleet."))
CONTRADICTING = [TrainingExample(prompt=example.prompt, target=1 - example.target) for example in GIVEN]


def trained(trainer: LoraTrainer, folder: Path, held_out: list[TrainingExample]) -> TrainingResult:
    return trainer.train(GIVEN, notes.WORDS, SETTINGS, folder, held_out=held_out)


def weights(result: TrainingResult) -> dict[str, torch.Tensor]:
    return dict(load_file(Path(result.path) / "adapter_model.safetensors"))


def test_they_choose_the_pass(trainer: LoraTrainer, tmp_path: Path) -> None:
    plain = trained(trainer, tmp_path, [])
    assert plain.held_out_losses == () and plain.best_step == 8
    misled = trained(trainer, tmp_path, CONTRADICTING)
    steps, losses = zip(*misled.held_out_losses, strict=True)
    assert steps == (2, 4, 6, 8)  # a pass is two batches
    assert misled.best_step == steps[losses.index(min(losses))] < 8, "the better it learns, the worse these are"
    assert misled.losses == plain.losses and misled.name != plain.name
    helped = trained(trainer, tmp_path, AGREEING)
    assert helped.best_step > misled.best_step
    if helped.best_step == 8:
        assert all(torch.equal(weight, weights(plain)[name]) for name, weight in weights(helped).items())


def test_weights_that_are_no_numbers_are_not_kept_and_what_is_measured_can_be_stored() -> None:
    """JSON has no infinity: a result with one could be written, and never be read again."""
    probabilities = iter([[[0.9, 0.1]], [[math.nan, math.nan]]])
    loss_of = SimpleNamespace(probabilities=lambda chosen: torch.tensor(next(probabilities)))
    held_out = HeldOut(torch.nn.Module(), cast(LabelLoss, loss_of), 0, [0])
    weights = [torch.zeros(2)]
    held_out.evaluate(1, weights)
    weights[0].fill_(math.nan)
    held_out.evaluate(2, weights)
    held_out.restore(weights)
    assert weights[0].tolist() == [0, 0] and held_out.best_step == 1
    assert all(math.isfinite(loss) for _, loss in held_out.curve)


def test_a_held_out_label_that_is_none_is_refused(trainer: LoraTrainer, tmp_path: Path) -> None:
    wrong = [TrainingExample(prompt="Label:", target=2)]
    with pytest.raises(InputError, match=r"0 to 1; got \[2\]"):
        trainer.train(GIVEN, notes.WORDS, SETTINGS, tmp_path, held_out=wrong)


@pytest.mark.parametrize(("share", "held_per_class"), [(0.0, 0), (0.1, 1), (0.25, 2), (0.5, 5)])
def test_a_share_of_each_class_is_held_out(share: float, held_per_class: int) -> None:
    examples = [TrainingExample(prompt=str(number), target=target) for number in range(10) for target in (0, 1)]
    learnt, held_out = hold_out(examples, share)
    assert sorted([*learnt, *held_out], key=str) == sorted(examples, key=str)
    assert [sum(example.target == target for example in held_out) for target in (0, 1)] == [
        held_per_class,
        held_per_class,
    ]

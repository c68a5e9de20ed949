"""Targets that are probabilities instead of one label."""

from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.training.lora.examples import TrainingExample
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.train import LoraTrainer
from tests.training import notes

BRIEF = LoraSettings(min_steps=1, max_steps=1, batch_size=8)
LONGER = LoraSettings(min_steps=60, max_steps=60, batch_size=8, learning_rate=0.05)


def softened(*targets: tuple[float, ...]) -> list[TrainingExample]:
    """The notes, their targets in turn from ``targets``."""
    return [
        msgspec.structs.replace(example, soft=targets[number % len(targets)])
        for number, example in enumerate(notes.examples())
    ]


def first_loss(trainer: LoraTrainer, examples: list[TrainingExample], folder: Path, smoothing: float = 0.0) -> float:
    settings = msgspec.structs.replace(BRIEF, label_smoothing=smoothing)
    return trainer.train(examples, notes.WORDS, settings, folder).losses[0]


def test_the_loss_is_the_mean_of_the_labels_losses_weighted_by_the_targets(
    tiny_trainer: LoraTrainer, tmp_path: Path
) -> None:
    warm = [msgspec.structs.replace(example, target=0) for example in notes.examples()]
    cold = [msgspec.structs.replace(example, target=1) for example in notes.examples()]
    if_warm, if_cold = (first_loss(tiny_trainer, examples, tmp_path) for examples in (warm, cold))
    assert abs(if_warm - if_cold) > 1e-3
    mixed = first_loss(tiny_trainer, softened((0.3, 0.7)), tmp_path)
    assert mixed == pytest.approx(0.3 * if_warm + 0.7 * if_cold, rel=1e-5)
    smoothed = first_loss(tiny_trainer, warm, tmp_path, smoothing=0.4)
    assert smoothed == pytest.approx(0.8 * if_warm + 0.2 * if_cold, rel=1e-5)


def test_a_target_of_one_label_for_certain_is_that_label(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    hard = first_loss(tiny_trainer, notes.examples(), tmp_path)
    soft = [
        msgspec.structs.replace(example, target=0, soft=(1.0 - example.target, float(example.target)))
        for example in notes.examples()
    ]
    assert first_loss(tiny_trainer, soft, tmp_path) == pytest.approx(hard, rel=1e-6)


def test_what_is_learnt_is_the_probability(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    result = tiny_trainer.train(softened((0.62, 0.38)), notes.WORDS, LONGER, tmp_path)
    assert result.probe is not None
    for warm, _ in result.probe.probabilities:
        assert warm == pytest.approx(0.62, abs=0.02)  # so small a model gets no further than 0.68


@pytest.mark.parametrize(
    ("soft", "message"),
    [((1.0,), "2 probab"), ((0.7, 0.7), "sum to 1"), ((1.5, -0.5), "probab"), ((0.5, 0.2, 0.3), "2 probab")],
)
def test_what_is_no_distribution_over_the_labels_is_refused(
    tiny_trainer: LoraTrainer, tmp_path: Path, soft: tuple[float, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tiny_trainer.train(softened(soft), notes.WORDS, BRIEF, tmp_path)


def test_soft_targets_need_the_loss_on_the_label_alone(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    on_text = msgspec.structs.replace(BRIEF, loss="text")
    with pytest.raises(InputError, match="Soft targets"):
        tiny_trainer.train(softened((0.5, 0.5)), notes.WORDS, on_text, tmp_path)

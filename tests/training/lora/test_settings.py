from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.training.lora.precision import Precision, choose_precision
from fourshot.training.lora.settings import PRESETS, LoraSettings
from fourshot.training.lora.train import LoraTrainer
from tests.training import notes

BF16 = Precision(base="bfloat16")
FP16 = Precision(base="float16", loss_scaling=True)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((7, 0), FP16),  # V100
        ((7, 5), FP16),  # T4
        ((8, 0), BF16),  # A100
        ((8, 9), BF16),  # L4
        ((9, 0), BF16),  # H100
        ((12, 0), BF16),
    ],
)
def test_a_gpu_without_bfloat16_trains_in_float16_with_loss_scaling(
    capability: tuple[int, int], expected: Precision
) -> None:
    assert choose_precision(capability) == expected


def test_the_cpu_trains_in_bfloat16() -> None:
    assert choose_precision(None) == BF16


@pytest.mark.parametrize(
    ("num_examples", "num_labels", "steps"),
    [
        (1, 0, 40),  # for few texts
        (8, 0, 40),
        (8, 2, 10),  # eight bits
        (16, 4, 40),
        (32, 2, 40),
        (80, 2, 40),  # 4 passes of 10 batches
        (81, 2, 44),  # a started batch counts
        (270, 6, 136),
        (1_280, 6, 160),
        (1_281, 6, 161),  # one pass, however many texts
        (100_000, 6, 12_500),
    ],
)
def test_the_default_plans_four_passes_between_its_bounds(num_examples: int, num_labels: int, steps: int) -> None:
    assert LoraSettings().planned_steps(num_examples, num_labels) == steps


@pytest.mark.parametrize(("num_examples", "steps"), [(8, 100), (50, 700), (250, 3200)])
def test_the_paper_plans_a_hundred_epochs_of_batches_of_eight(num_examples: int, steps: int) -> None:
    assert PRESETS["paper"].planned_steps(num_examples) == steps


def test_max_steps_wins_over_min_steps_and_0_is_no_bound() -> None:
    assert LoraSettings(max_steps=4).planned_steps(1000) == 4
    assert LoraSettings(soft_max_steps=0).planned_steps(100_000) == 50_000
    assert LoraSettings(min_steps=400).planned_steps(1000) == 400


@pytest.mark.parametrize(("changed", "steps"), [({"min_steps": 40}, 40), ({"num_epochs": 25.0}, 25)])
def test_few_bits_bound_no_steps_that_are_asked_for(changed: dict, steps: int) -> None:
    assert LoraSettings(**changed).planned_steps(8, 2) == steps


@pytest.mark.parametrize(("planned", "steps"), [(4, 2), (10, 5), (40, 10), (160, 16)])
def test_the_rate_rises_over_ten_steps_a_tenth_of_many_or_half_of_few(planned: int, steps: int) -> None:
    assert LoraSettings().warmup_steps(planned) == steps
    assert PRESETS["paper"].warmup_steps(planned) == LoraSettings(warmup=0.0).warmup_steps(planned) == 0


def test_the_papers_preset_is_what_the_paper_says() -> None:
    paper = PRESETS["paper"]
    assert (paper.r, paper.lora_alpha, paper.lora_dropout, paper.batch_size, paper.num_epochs) == (8, 32, 0.1, 8, 100)
    assert paper.loss == "text"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"r": 0}, "^r must"),
        ({"r": 1024}, "at most 512"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_epochs": -1.0}, "num_epochs"),
        ({"max_steps": -1}, "max_steps"),
        ({"soft_max_steps": -1}, "soft_max_steps"),
        ({"min_steps": -1}, "min_steps"),
        ({"min_warmup_steps": -1}, "min_warmup_steps"),
        ({"converged_steps": -1}, "converged_steps"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"warmup": 1.5}, "warmup"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"label_smoothing": 0.1, "loss": "text"}, "label_smoothing"),
        ({"target_modules": ()}, "target_modules"),
        ({"adapted_layers": 0.0}, "adapted_layers"),
        ({"adapted_layers": 1.5}, "adapted_layers"),
        ({"adapted_layers": float("nan")}, "adapted_layers"),
    ],
)
def test_a_setting_that_cannot_train_is_refused_by_name(wrong: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        LoraSettings(**wrong)


FEW_STEPS = LoraSettings(num_epochs=3.0, min_steps=1, batch_size=4, learning_rate=0.02, min_warmup_steps=0)  # 6 on 8
CHANGED = {
    "r": 4,
    "lora_alpha": 16,
    "lora_dropout": 0.5,
    "target_modules": ("q_proj",),
    "adapted_layers": 0.5,
    "learning_rate": 0.01,
    "weight_decay": 0.5,
    "warmup": 0.5,
    "decay": False,
    "batch_size": 8,
    "loss": "text",
    "num_epochs": 4.0,
    "min_steps": 9,
    "min_warmup_steps": 3,
    "max_steps": 3,
    "soft_max_steps": 3,
    "converged_loss": 100.0,  # after five of the six steps
    "converged_steps": 2,
    "label_smoothing": 0.3,
}


def trained(trainer: LoraTrainer, folder: Path, settings: LoraSettings) -> tuple[str, tuple[float, ...]]:
    result = trainer.train(notes.examples(), notes.WORDS, settings, folder)
    return result.name, result.losses


@pytest.fixture(scope="module")
def plain(tiny_trainer: LoraTrainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, tuple[float, ...]]:
    return trained(tiny_trainer, tmp_path_factory.mktemp("plain"), FEW_STEPS)


# Whoever gives a trainer its examples holds some out: tests/pipeline/test_settings.py.
@pytest.mark.parametrize("key", sorted({*LoraSettings.__struct_fields__} - {"held_out"}))
def test_every_setting_changes_the_training(
    tiny_trainer: LoraTrainer, plain: tuple[str, tuple[float, ...]], tmp_path: Path, key: str
) -> None:
    changed = msgspec.structs.replace(FEW_STEPS, **{key: CHANGED[key]})
    if key == "converged_steps":
        changed = msgspec.structs.replace(changed, converged_loss=CHANGED["converged_loss"])
        assert len(trained(tiny_trainer, tmp_path, changed)[1]) == changed.converged_steps
    assert trained(tiny_trainer, tmp_path, changed) != plain

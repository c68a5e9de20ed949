"""Prompts that show labelled texts: all their labels are learnt, each from what is before it."""

from pathlib import Path
from statistics import fmean

import msgspec
import pytest

from fourshot.engine.core import Verbalizer
from fourshot.engine.errors import InputError
from fourshot.training.lora.examples import ShownLabel, TrainingExample
from fourshot.training.lora.settings import LoraSettings
from fourshot.training.lora.train import LoraTrainer
from tests.training import notes

TEXTS = (("the sun burns", 0), ("snow fell on the hut", 1), ("ice on the lake", 1), ("a hot day", 0))


def sequence(*texts: tuple[str, int]) -> TrainingExample:
    """A prompt that shows all texts, all but the last one with their labels."""
    prompt, shown = "Warm or cold?\n\n", []
    for text, target in texts[:-1]:
        prompt += f"Text: {text}\nLabel:"
        shown.append(ShownLabel(start=len(prompt), target=target))
        prompt += f" {notes.WORDS[target]}\n\n"
    text, target = texts[-1]
    return TrainingExample(prompt=f"{prompt}Text: {text}\nLabel:", target=target, shown=tuple(shown))


def first_losses(
    trainer: LoraTrainer, folder: Path, *examples: TrainingExample, verbalizer: Verbalizer = "token", **changes: float
) -> float:
    settings = msgspec.structs.replace(LoraSettings(min_steps=1, max_steps=1), **changes)
    return trainer.train(examples, notes.WORDS, settings, folder, verbalizer=verbalizer).losses[0]


@pytest.mark.parametrize("verbalizer", ["token", "word"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_sequence_has_the_mean_loss_of_its_labels_in_prompts_of_their_own(
    tiny_trainer: LoraTrainer, tmp_path: Path, verbalizer: Verbalizer, smoothing: float
) -> None:
    whole = sequence(*TEXTS)
    alone = [
        msgspec.structs.replace(sequence(*TEXTS[: number + 1]), shown=msgspec.UNSET) for number in range(len(TEXTS))
    ]
    losses = [
        first_losses(tiny_trainer, tmp_path, example, verbalizer=verbalizer, label_smoothing=smoothing)
        for example in alone
    ]
    assert max(losses) - min(losses) > 1e-3
    together = first_losses(tiny_trainer, tmp_path, whole, verbalizer=verbalizer, label_smoothing=smoothing)
    assert together == pytest.approx(fmean(losses), rel=1e-4)


def test_sequences_of_a_batch_count_the_same_whatever_their_length(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    long, short = sequence(*TEXTS), sequence(*TEXTS[1:3])
    both = first_losses(tiny_trainer, tmp_path, long, short)
    assert both == pytest.approx(
        fmean(first_losses(tiny_trainer, tmp_path, example) for example in (long, short)), rel=1e-4
    )


def test_a_shown_label_that_does_not_exist_is_refused(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    wrong = msgspec.structs.replace(sequence(*TEXTS), shown=(ShownLabel(start=5, target=7),))
    with pytest.raises(InputError, match=r"indices of the 2 labels, 0 to 1; got \[7\]"):
        first_losses(tiny_trainer, tmp_path, wrong)


def test_a_label_inside_a_token_is_not_learnt(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    whole = sequence(*TEXTS)
    inside = msgspec.structs.replace(whole, shown=(ShownLabel(start=whole.prompt.index("burns") + 3, target=1),))
    alone = msgspec.structs.replace(whole, shown=msgspec.UNSET)
    got, expected = (first_losses(tiny_trainer, tmp_path, example) for example in (inside, alone))
    assert got == pytest.approx(expected, rel=1e-5)

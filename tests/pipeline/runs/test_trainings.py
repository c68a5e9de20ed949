"""Trainings by content: what is the same is done once, what differs in anything is done anew."""

from pathlib import Path

import msgspec
import pytest

from fourshot.engine.core import Adapter
from fourshot.pipeline.cells.trainings import averaged, classification_examples
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.jobs.jobs import TrainingJob
from fourshot.training.lora.settings import LoraSettings

TASK = load_task("support_tickets")
PLAIN = PromptFormat()
EXAMPLES = (
    Example(text="The parcel never came", label=TASK.label_names[0]),
    Example(text="I was charged twice", label=TASK.label_names[1]),
)


def job(**changes: object) -> TrainingJob:
    settings = LoraSettings(min_steps=2, max_steps=2)
    plain = TrainingJob(
        name="tickets",
        model_revision="abc",
        examples=classification_examples(TASK, EXAMPLES, PLAIN),
        labels=TASK.label_words,
        settings=settings,
    )
    return msgspec.structs.replace(plain, **changes)


def test_examples_are_prompted_as_they_are_served() -> None:
    first, second = classification_examples(TASK, EXAMPLES, PLAIN, weight=2.0)
    assert first.prompt == classification_prompt(TASK, EXAMPLES[0].text, PromptFormat())
    assert (first.target, second.target, first.weight) == (0, 1, 2.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_revision": "abd"},
        {"examples": classification_examples(TASK, EXAMPLES[::-1], PLAIN)},
        {"examples": classification_examples(TASK, EXAMPLES, PLAIN, weight=0.5)},
        {"examples": classification_examples(TASK, EXAMPLES, PromptFormat(wording="bare"))},
        {"settings": LoraSettings(min_steps=2, max_steps=2, learning_rate=1e-3)},
        {"seed": 1},
        {"labels": TASK.label_words[::-1]},
        {"verbalizer": "token"},
    ],
)
def test_whatever_decides_the_weights_decides_the_key(changes: dict[str, object]) -> None:
    assert job().key == job().key
    assert job(**changes).key != job().key


def test_adapters_that_are_asked_alike_read_behind_their_average(
    adapters: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    first, second = (Annotator(adapter=adapter, left_out=(number,)) for number, adapter in enumerate(adapters))
    unlike = (
        Annotator(adapter=adapters[0], wording="bare"),
        Annotator(adapter=adapters[0], fold=0),
        Annotator(adapter=None),
    )
    average, *rest = averaged((first, second, *unlike), tmp_path)
    assert average.adapter and average.adapter.path == str(next(tmp_path.iterdir()))
    assert (average.averages, average.left_out, average.wording) == ((first, second), (), "task")
    assert {*average.adapters} == {average.adapter, *adapters} and tuple(rest) == unlike


def test_adapters_that_are_asked_differently_are_not_averaged(
    adapters: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    annotators = (Annotator(adapter=adapters[0]), Annotator(adapter=adapters[1], wording="bare"))
    assert averaged(annotators, tmp_path) == annotators and not list(tmp_path.iterdir())

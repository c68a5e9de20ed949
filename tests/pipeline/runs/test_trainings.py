"""Trainings by content: what is the same is done once, what differs in anything is done anew."""

import shutil
from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.events import Event
from fourshot.pipeline.runs.trainings import classification_examples, run_jobs, try_jobs
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.pipeline.tasks.types import Example
from fourshot.training.jobs.jobs import FailedJob, TrainingJob, finished
from fourshot.training.lora.examples import TrainingResult
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
    assert first.prompt == classification_prompt(TASK, EXAMPLES[0].text)
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
    ],
)
def test_whatever_decides_the_weights_decides_the_key(changes: dict[str, object]) -> None:
    assert job().key == job().key
    assert job(**changes).key != job().key


def test_a_finished_job_is_not_trained_again_not_even_in_a_store_that_was_moved(model: str, tmp_path: Path) -> None:
    store, moved, told = tmp_path / "store", tmp_path / "moved", list[Event]()
    (trained,) = run_jobs(model, [job()], store, told.append)
    assert told[-1].done == trained.steps == 2 and len(trained.losses) == 2
    assert (Path(trained.path) / "adapter_model.safetensors").is_file()
    shutil.move(store, moved)
    (again,) = run_jobs("/no/such/model", [job()], moved)  # would fail if it opened the model
    assert again == msgspec.structs.replace(trained, path=str(moved / job().key / trained.name))
    assert finished(moved, job(model_revision="abd")) is None


def test_a_job_that_fails_stops_the_others_only_where_it_is_to(model: str, tmp_path: Path) -> None:
    one_label = job(labels=TASK.label_words[:1], examples=job().examples[:1])
    told = list[Event]()
    failed, trained = try_jobs(model, [one_label, job()], tmp_path, told.append)
    assert isinstance(failed, FailedJob) and (failed.key, failed.kind) == (one_label.key, "InputError")
    assert "at least two labels" in failed.message
    assert isinstance(trained, TrainingResult) and trained.steps == 2
    with pytest.raises(InputError, match="at least two labels"):
        run_jobs(model, [one_label, job(model_revision="other")], tmp_path)
    assert finished(tmp_path, job(model_revision="other")) is None

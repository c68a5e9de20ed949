"""Trainings by content: a job that was done before, with the same examples and settings, is not done again."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pipeline.events import Event, OnEvent, ignore
from pipeline.nouns import Example, Task
from pipeline.prompts import Wording, reading_prompt
from pipeline.runfolder import RunFolder
from training.examples import TrainingExample, TrainingResult
from training.settings import LoraSettings

RESULT_FILE = "result.json"


class TrainingJob(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter to train."""

    name: str  # what the adapter's name begins with
    model_revision: str
    examples: tuple[TrainingExample, ...]
    labels: tuple[str, ...]  # words
    settings: LoraSettings

    @property
    def key(self) -> str:
        """Content hash: all that decides the adapter's bytes."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]


def classification_examples(
    task: Task,
    examples: Sequence[Example],
    *,
    weight: float = 1.0,
    max_text_words: int = 300,
    wording: Wording = "task",
) -> tuple[TrainingExample, ...]:
    """Zero-shot prompts with the label to be said; in the wording ``task``, as they are served later."""
    names = task.label_names
    return tuple(
        TrainingExample(
            prompt=reading_prompt(task, example.text, wording, max_text_words=max_text_words),
            target=names.index(example.label),
            weight=weight,
        )
        for example in examples
    )


def finished(store: Path, job: TrainingJob) -> TrainingResult | None:
    """The result of a job that the store has, with its path as it is now: stores may be moved."""
    folder = RunFolder(store / job.key)
    if not folder.has(RESULT_FILE):
        return None
    result = folder.read(RESULT_FILE, TrainingResult)
    return msgspec.structs.replace(result, path=str((store / job.key / result.name).resolve()))


def run_jobs(model: str, jobs: Sequence[TrainingJob], store: Path, on_event: OnEvent = ignore) -> list[TrainingResult]:
    """Train what the store does not have yet; the base is loaded once, and not at all if nothing is to do."""
    from training.lora import LoraTrainer

    trainer: LoraTrainer | None = None
    results = []
    for number, job in enumerate(jobs, start=1):
        result = finished(store, job)
        if result is None:
            trainer = trainer or LoraTrainer(model)
            result = trainer.train(
                job.examples,
                job.labels,
                job.settings,
                store / job.key,
                prefix=job.name,
                on_step=_reporter(f"{job.name}, adapter {number} of {len(jobs)}", on_event),
            )
            RunFolder(store / job.key).write(RESULT_FILE, result)
        results.append(result)
    return results


def _reporter(title: str, on_event: OnEvent):  # type: ignore[no-untyped-def]
    def on_step(step: int, planned: int, loss: float) -> None:
        on_event(
            Event(
                stage="train", message=title, done=step, total=planned, unit="steps", figures={"loss": round(loss, 4)}
            )
        )

    return on_step

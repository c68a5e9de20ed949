"""From a task's examples to trainings, and trainings done one after another or over Ray."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from engine import errors
from engine.errors import FourshotError
from pipeline.events import Event, OnEvent, ignore
from pipeline.nouns import Example, Task
from pipeline.prompts import Wording, reading_prompt
from training.examples import TrainingExample, TrainingResult
from training.jobs import FailedJob, OnJobStep, TrainingJob, do_job, finished


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


def run_jobs(
    model: str, jobs: Sequence[TrainingJob], store: Path, on_event: OnEvent = ignore, ray: str = ""
) -> list[TrainingResult]:
    """Train what the store does not have yet, in this process, or over the Ray cluster at ``ray``.

    In this process the base is loaded once, and not at all if nothing is to do. Over Ray a job that fails does not
    stop the others; the first failure is raised when all have ended.
    """
    on_step = _reporter(jobs, on_event)
    if ray:
        from training.ray_jobs import run_jobs_over_ray

        outcomes = run_jobs_over_ray(model, jobs, store, ray, on_step)
        failed = [outcome for outcome in outcomes if isinstance(outcome, FailedJob)]
        if failed:
            raise _failure(failed, len(jobs))
        return [outcome for outcome in outcomes if isinstance(outcome, TrainingResult)]
    from training.lora import LoraTrainer

    trainer: LoraTrainer | None = None
    results = []
    for number, job in enumerate(jobs):
        result = finished(store, job)
        if result is None:
            trainer = trainer or LoraTrainer(model)
            result = do_job(trainer, job, store, partial(on_step, number))
        results.append(result)
    return results


def _failure(failed: Sequence[FailedJob], total: int) -> FourshotError:
    """One error for all of them, of the first one's kind."""
    kind = getattr(errors, failed[0].kind, FourshotError)
    said = "\n".join(f"  - {one.key}: {one.message}" for one in failed)
    message = f"{len(failed)} of {total} trainings failed, the others are kept:\n{said}"
    return kind(message) if issubclass(kind, FourshotError) else FourshotError(message)


def _reporter(jobs: Sequence[TrainingJob], on_event: OnEvent) -> OnJobStep:
    def on_step(number: int, step: int, planned: int, loss: float) -> None:
        title = f"{jobs[number].name}, adapter {number + 1} of {len(jobs)}"
        figures = {"loss": round(loss, 4)}
        on_event(Event(stage="train", message=title, done=step, total=planned, unit="steps", figures=figures))

    return on_step

"""From a task's examples to trainings, and trainings done one after another or over Ray."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from fourshot.engine import errors
from fourshot.engine.errors import FourshotError
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.synthesis.prompts import PromptFormat, reading_prompt
from fourshot.pipeline.tasks.types import Example, Task
from fourshot.training.jobs.jobs import HERE, FailedJob, OnJobStep, Placement, TrainingJob, do_job, finished
from fourshot.training.lora.examples import OnStep, TrainingExample, TrainingResult

if TYPE_CHECKING:
    from fourshot.training.lora.train import LoraTrainer


def classification_examples(
    task: Task,
    examples: Sequence[Example],
    form: PromptFormat,
    *,
    weight: float = 1.0,
) -> tuple[TrainingExample, ...]:
    """Prompts without shots, each with the label to be said. They are served in the same ``form`` later."""
    names = task.label_names
    return tuple(
        TrainingExample(
            prompt=reading_prompt(task, example.text, form),
            target=names.index(example.label),
            weight=weight,
        )
        for example in examples
    )


def hold_out(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Split off ``share`` of each class, spread over the order drawn: what is seen, and what is held out."""
    seen, held = list[Example](), list[Example]()
    counted: Counter[str] = Counter()
    for example in examples:
        before, counted[example.label] = counted[example.label], counted[example.label] + 1
        is_held = int(counted[example.label] * share) > int(before * share)
        (held if is_held else seen).append(example)
    return seen, held


def check_cluster(placement: Placement) -> None:
    """Raise InputError where the Ray cluster is not there, before anything is done that would wait for it."""
    if placement.ray not in ("", "local"):
        from fourshot.training.jobs.cluster import cluster

        with cluster(placement.ray):
            pass


def run_jobs(
    model: str,
    jobs: Sequence[TrainingJob],
    store: Path,
    on_event: OnEvent = ignore,
    placement: Placement = HERE,
    what: str = "adapter",
) -> list[TrainingResult]:
    """Train what the store does not have yet, in this process, or where ``placement`` says.

    ``what`` is trained, for people. In this process the first failure is raised at once. Over Ray a job that fails
    does not stop the others; one error for all that failed is raised when all have ended.
    """
    outcomes = try_jobs(model, jobs, store, on_event, placement, what, keep_going=bool(placement.ray))
    failed = [outcome for outcome in outcomes if isinstance(outcome, FailedJob)]
    if failed:
        raise _failure(failed, len(jobs))
    return [outcome for outcome in outcomes if isinstance(outcome, TrainingResult)]


def try_jobs(
    model: str,
    jobs: Sequence[TrainingJob],
    store: Path,
    on_event: OnEvent = ignore,
    placement: Placement = HERE,
    what: str = "adapter",
    *,
    keep_going: bool = True,
) -> list[TrainingResult | FailedJob]:
    """As `run_jobs`, but a failure is an outcome like others. One outcome per job, in order.

    In this process the base is loaded once, and not at all if nothing is to do. A full disk, or another fault of the
    machine, is raised in any case.
    """
    on_step = _reporter(jobs, on_event, what)
    if placement.ray:
        from fourshot.training.jobs.ray_jobs import run_jobs_over_ray

        return run_jobs_over_ray(model, jobs, store, placement, on_step)
    do = _doer(model, store, placement.gpus_per_job)
    outcomes: list[TrainingResult | FailedJob] = []
    for number, job in enumerate(jobs):
        try:
            outcome = finished(store, job)
            if outcome is None:
                outcome = do(job, partial(on_step, number))
                on_step(number, outcome.steps, outcome.steps, outcome.losses[-1])  # it may have stopped early
        except FourshotError as error:
            if not keep_going:
                raise
            outcomes.append(FailedJob(key=job.key, kind=type(error).__name__, message=str(error)))
        else:
            outcomes.append(outcome)
    return outcomes


def _doer(model: str, store: Path, processes: int) -> Callable[[TrainingJob, OnStep], TrainingResult]:
    """Trains a job: in this process, which opens the base when it is first asked to, or over several."""

    @cache
    def open_trainer() -> "LoraTrainer":
        from fourshot.training.lora.train import LoraTrainer

        return LoraTrainer(model)

    def do(job: TrainingJob, on_step: OnStep) -> TrainingResult:
        if processes > 1:
            from fourshot.training.jobs.processes import do_job_over_processes

            return do_job_over_processes(model, job, store, processes, on_step)
        return do_job(open_trainer(), job, store, on_step)

    return do


def _failure(failed: Sequence[FailedJob], total: int) -> FourshotError:
    """One error for all of them, of the first one's kind."""
    kind = getattr(errors, failed[0].kind, FourshotError)
    said = "\n".join(f"  - {one.key}: {one.message}" for one in failed)
    message = f"{len(failed)} of {total} trainings failed, the others are kept:\n{said}"
    return kind(message) if issubclass(kind, FourshotError) else FourshotError(message)


def _reporter(jobs: Sequence[TrainingJob], on_event: OnEvent, what: str) -> OnJobStep:
    def on_step(number: int, step: int, planned: int, loss: float) -> None:
        title = f"{jobs[number].name}, {what} {number + 1} of {len(jobs)}"
        figures = {"loss": round(loss, 4)}
        on_event(Event(stage="train", message=title, done=step, total=planned, unit="steps", figures=figures))

    return on_step

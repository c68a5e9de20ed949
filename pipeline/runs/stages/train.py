"""Train adapters: those on the shots and the annotators before texts are generated, the classifiers afterwards."""

import os
from collections.abc import Collection
from functools import partial
from pathlib import Path
from threading import Lock
from typing import ClassVar, Self

import msgspec

from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import from_name
from fourshot.engine.machine.threads import ENGINE_SPINS, TRAIN_SPINS, available_cores
from fourshot.engine.opening import imports_of
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.pipeline.token_counter import token_counter
from fourshot.training.jobs.jobs import IMPORTS, FailedJob, OnJobStep, TrainingJob, finished, lost
from fourshot.training.jobs.processes import training


class TrainStage(Stage, frozen=True, kw_only=True, tag="train"):
    """Train what the store does not have yet: one after the other in this process, side by side, or over Ray.

    In this process, the base is loaded once, and not at all if nothing is left to do. Without ``keep_going``, the first
    failure is raised at once. Side by side and over Ray, a job that fails does not stop the others. One error for all
    failures is raised when all jobs have ended. A full disk, or another fault of the machine, is raised in any case.
    """

    items: tuple[TrainingJob, ...]
    store: str
    what: str = "adapter"  # noun for what is trained, in messages
    kinds: dict[str, str] = msgspec.field(default_factory=dict)  # by a job's key: its noun, where that is another

    spins: ClassVar[str] = TRAIN_SPINS

    @property
    def imports(self) -> str:
        here = not self.placement.ray and (Path(self.model_path) / "config.json").is_file()
        return IMPORTS if here else ""

    @property
    def next_imports(self) -> tuple[str, str]:
        engine = imports_of(EngineSettings(model=self.model_path))
        return (engine, ENGINE_SPINS) if self.imports else ("", "")

    def joined(self, stages: Collection[Self]) -> Self:
        kinds = {key: kind for stage in stages for key, kind in stage.kinds.items()}
        return msgspec.structs.replace(super().joined(stages), kinds=kinds)

    def is_finished(self, item: TrainingJob) -> bool:
        return finished(Path(self.store), item) is not None

    def run(self, on_event: OnEvent) -> list[FailedJob]:
        report = partial(self._report, on_event)
        if (failed := self.run_in_processes(on_event)) is not None:
            return failed
        self._tell_lost(on_event)
        if self.placement.ray:
            return self._ended(self._over_ray(on_event, report))
        self._tell_start(on_event)
        train = training(self.model_path, Path(self.store), self.placement.gpus_per_job)
        number = {job.key: number for number, job in enumerate(self.items)}

        def do(job: TrainingJob) -> None:
            if not self.is_finished(job):
                on_step = partial(report, number[job.key])
                result = train(job, on_step)
                on_step(result.steps, result.steps, result.losses[-1])  # it may have stopped early

        return self._each(do)

    def run_in_processes(self, on_event: OnEvent) -> list[FailedJob] | None:
        is_alone = self.placement.gpus_per_job != 1 or len(self.items) < 2 or self.is_done
        if self.placement.ray or is_alone:
            return None
        from fourshot.training.jobs.at_once import do_jobs_at_once, width

        prompts = (example.prompt for job in self.items for example in job.examples)
        longest = token_counter(self.model_path)(max(prompts, key=len, default=""))
        among = width(self.model_path, len(self.items), self.placement.at_once, longest)
        if among.at_once == 1 and among.threads == available_cores():
            return None
        lock = Lock()

        def tell(event: Event) -> None:
            with lock:  # each process has a thread that calls this
                on_event(event)

        self._tell_lost(on_event)
        self._tell_start(on_event)
        jobs = [(number, job) for number, job in enumerate(self.items) if not self.is_finished(job)]
        log = Path(self.log or os.devnull)
        report = partial(self._report, tell)
        return self._ended(do_jobs_at_once(self.model_path, jobs, Path(self.store), among, log, report))

    def _over_ray(self, on_event: OnEvent, report: OnJobStep) -> list[FailedJob]:
        from fourshot.training.jobs.ray_jobs import run_jobs_over_ray

        def tell(line: str) -> None:
            on_event(Event(stage=self.name, message=line))

        outcomes = run_jobs_over_ray(self.model_path, self.items, Path(self.store), self.placement, report, tell)
        return [outcome for outcome in outcomes if isinstance(outcome, FailedJob)]

    def _tell_lost(self, on_event: OnEvent) -> None:
        for folder in lost(Path(self.store), self.items):
            message = f"the weights in {folder} are missing or incomplete, so this adapter is trained again"
            on_event(Event(stage=self.name, message=message, notice=True))

    def _tell_start(self, on_event: OnEvent) -> None:
        if not self.is_done:  # on a busy machine, the first step may take a minute
            on_event(Event(stage=self.name, message="loading the base model"))

    def _ended(self, failed: list[FailedJob]) -> list[FailedJob]:
        """Return ``failed`` if ``keep_going``; else raise one error for all of them, of the first one's class."""
        if failed and not self.keep_going:
            reasons = "\n".join(f"  - {failure.key}: {failure.message}" for failure in failed)
            message = f"{len(failed)} of {len(self.items)} trainings failed, the others are kept:\n{reasons}"
            raise from_name(failed[0].kind, message)
        return failed

    def _report(self, on_event: OnEvent, number: int, step: int, planned: int, loss: float) -> None:
        kinds = [self.kinds.get(job.key, self.what) for job in self.items]
        kind, count = kinds[number], kinds.count(kinds[number])
        title = f"{self.items[number].name}, {kind}"
        if count > 1 or kind == self.what:
            title += f" {kinds[: number + 1].count(kind)} of {count}"
        figures = {"loss": round(loss, 4)}
        on_event(Event(stage=self.name, message=title, done=step, total=planned, unit="steps", figures=figures))


def on_real_texts(experiment: Experiment) -> TrainStage:
    """Return the trainings that need no generated texts, except those on a pool, which must be drawn.

    These are the annotators, the methods trained on real texts alone, and the adapters that calibrate. In a run, the
    only such method is the adapter on the shots. With equal weights (``annotate.weights``) it may be an annotator, too.
    """
    named = [(job, "annotator") for job in annotators(experiment).items]
    on_shots = [cell for cell in experiment.cells if cell.method.trained and not cell.method.synthetic]
    named += [(experiment.job(cell), cell.method.display_name) for cell in on_shots]
    named += [(job, "adapter for calibration") for cell in experiment.cells for job in experiment.calibrator_jobs(cell)]
    stage = _stage(experiment, [job for job, _ in named], "adapter")
    if not experiment.flat:
        return stage
    return msgspec.structs.replace(stage, kinds={job.key: kind for job, kind in reversed(named)})  # the first counts


def annotators(experiment: Experiment) -> TrainStage:
    """Return the trainings of the committee alone."""
    jobs = [job for writer in experiment.writers for job in experiment.annotator_jobs(writer)]
    return _stage(experiment, jobs, "annotator")


def first_classifiers(experiment: Experiment) -> TrainStage:
    """Return the trainings of the first classifiers, which annotate the texts again."""
    firsts = [first for cell in experiment.cells if (first := experiment.first_classifier(cell))]
    return _stage(experiment, [first.job for first in firsts], "first classifier")


def classifiers(experiment: Experiment) -> TrainStage:
    """Return the trainings on synthetic texts."""
    jobs = [experiment.job(cell) for cell in experiment.cells if cell.method.synthetic]
    return _stage(experiment, jobs, "classifier")


def _stage(experiment: Experiment, jobs: list[TrainingJob], noun: str) -> TrainStage:
    return TrainStage(model_path=experiment.model.path, store=str(experiment.store), items=tuple(jobs), what=noun)

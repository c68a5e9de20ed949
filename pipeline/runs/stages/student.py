"""Train small encoders, such as students on a teacher's labels, and evaluate them as they will be loaded."""

import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, ClassVar

import msgspec

from fourshot.engine.machine.files import read_made, write_json
from fourshot.engine.machine.threads import TRAIN_SPINS
from fourshot.pipeline.cells.measuring import evaluation_of
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.rows.fields import encoder_text
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.pipeline.task import Example, Task
from fourshot.training.students.examples import StudentJob, StudentResult
from fourshot.training.students.onnx_export import ONNX_FOLDER, PARITY_FILE, Parity, export_onnx
from fourshot.training.students.train import finished_student, train_student

if TYPE_CHECKING:
    from fourshot.training.students.classifier import StudentClassifier

TIMED_ALONE = 50  # texts that are classified and timed one by one


class StudentItem(msgspec.Struct, frozen=True, kw_only=True):
    """A student to train, and to evaluate into the file ``out``."""

    job: StudentJob
    task: Task
    test: tuple[Example, ...]  # empty: no evaluation
    out: str
    onnx: bool = False  # also export it to ONNX

    @property
    def key(self) -> str:
        return self.job.key


class StudentStage(Stage, frozen=True, kw_only=True, tag="student"):
    """Train the students that the store does not have yet, and evaluate them."""

    items: tuple[StudentItem, ...]
    store: str

    spins: ClassVar[str] = TRAIN_SPINS

    def is_finished(self, item: StudentItem) -> bool:
        result = finished_student(Path(self.store), item.job)
        measured = not item.test or Path(item.out).exists()
        return result is not None and measured and (not item.onnx or parities(result) != [])

    def _do(self, item: StudentItem, on_event: OnEvent) -> None:
        store, job = Path(self.store), item.job

        def report(step: int, planned: int, loss: float) -> None:
            figures = {"loss": round(loss, 4)}
            on_event(Event(stage="train", message=job.title, done=step, total=planned, unit="steps", figures=figures))

        result = finished_student(store, job) or train_student(job, store, report)
        if result.steps:
            report(result.steps, result.steps, result.losses[-1])  # it may have stopped early
        if item.test and not Path(item.out).exists():
            from fourshot.training.students.classifier import StudentClassifier

            classifier = StudentClassifier(result.path, job.settings.max_tokens)
            texts = [encoder_text(item.task, example.text, job.settings.max_tokens) for example in item.test]
            classifier.probabilities(texts[:16])  # warm-up
            began_s = time.perf_counter()
            probabilities = classifier.probabilities(texts)
            seconds = time.perf_counter() - began_s
            evaluation = evaluation_of(probabilities, item.task, item.test, seconds=seconds)
            alone_s = median(_seconds_alone(classifier, text) for text in texts[:TIMED_ALONE])
            write_json(Path(item.out), msgspec.structs.replace(evaluation, alone_s=alone_s))
            on_event(Event(stage="evaluate", message=job.title, done=len(texts), total=len(texts), unit="texts"))
        if item.onnx and not parities(result):
            on_event(Event(stage="export", message=f"{job.title}: ONNX, in float and int8"))
            test = [(example.text, item.task.label_names.index(example.label)) for example in item.test]
            shown = [(encoder_text(item.task, text, job.settings.max_tokens), label) for text, label in test]
            export_onnx(Path(result.path), job.settings.max_tokens, [example.text for example in job.examples], shown)


def _seconds_alone(classifier: "StudentClassifier", text: str) -> float:
    began_s = time.perf_counter()
    classifier.probabilities([text])
    return time.perf_counter() - began_s


def encoders(experiment: Experiment) -> StudentStage:
    """Return the trainings of the committees' encoders, which use the shots alone."""
    jobs = [job for writer in experiment.writers for job in experiment.encoder_jobs(writer)]
    items = [StudentItem(job=job, task=experiment.task, test=(), out="") for job in jobs]
    return StudentStage(
        model_path=jobs[0].encoder if jobs else "", items=tuple(items), store=str(experiment.encoder_store)
    )


def parities(result: StudentResult) -> list[Parity]:
    """Return how the ONNX files of a student compare with its checkpoint; [] where they do not exist."""
    file = Path(result.path) / ONNX_FOLDER / PARITY_FILE
    return read_made(file, list[Parity]) if file.exists() else []

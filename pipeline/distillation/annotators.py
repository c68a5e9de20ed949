"""Annotation of a user's texts: by a run's committee, an adapter, or anything that returns label probabilities.

Texts and annotations are passed in parts, in the same order, so that neither is completely in memory.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from fourshot.engine import calibration as calibrations
from fourshot.engine.calibration import NONE, Calibration
from fourshot.engine.checkpoints.models import resolve_again
from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import read_made
from fourshot.pipeline.card import base_of, load_card
from fourshot.pipeline.cells.run_folder import SHOTS_FILE, RunFolder
from fourshot.pipeline.distillation.teacher import Teacher, answers_hash
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.forecasts.forecast import Forecast
from fourshot.pipeline.loop.driver import WAIT_S
from fourshot.pipeline.loop.rounds import CALIBRATION_FILE, RoundSink
from fourshot.pipeline.loop.units import AnnotationUnit, TaskBrief, UnitResult
from fourshot.pipeline.loop.workers import engine_settings, open_workers
from fourshot.pipeline.remote_teacher import RemoteTeacher
from fourshot.pipeline.rows.fields import bare_text
from fourshot.pipeline.rows.text_words import words_left_out
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.run import load_shots
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.work_folder import MANIFEST_FILE

PART = 256  # texts that are written at once; a kill loses those of all parts that an engine has
FIRST_PART = 16  # texts; small, so that progress is visible even with few texts


class Annotation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Annotation of one text."""

    probabilities: tuple[float, ...] = ()  # [num_labels]; empty: it could not be read
    agreement: float | None = None  # share of the annotators that predict the most likely label; None for a single one
    fault: str = ""  # why it could not be read
    cut_words: int = 0  # words of the text that were not read


Parts = Iterable[Sequence[str]]
Annotate = Callable[[Parts], Iterator[list[Annotation]]]  # one list for each part, in their order


class NamedAnnotator(NamedTuple):
    """An annotator of texts: a committee, an adapter, a student, a service, or a remote teacher."""

    name: str  # changes whenever its predictions would
    task: Task
    open: Callable[[Path, OnEvent], Annotate]  # arguments: log file, callback for progress
    shots: tuple[Example, ...] = ()  # its training examples, if they are known
    pairs: Sequence[tuple[Candidate, Verdict]] = ()  # texts that it generated, with their verdicts
    teacher: Teacher | None = None  # if it annotates with an engine
    # Of a remote teacher: the forecast, given sample texts and the number of texts by stage; and the cost so far.
    forecast: Callable[[Sequence[str], Mapping[str, int]], Forecast] | None = None
    account: Callable[[], RemoteTeacher | None] = lambda: None
    # Of a remote teacher: generates texts into the rounds of a sink, which is made for the writer's settings.
    draw: Callable[[Path, OnEvent, RunSettings, Callable[[RunSettings], RoundSink]], None] | None = None
    check_draw: Callable[[RunSettings], object] = lambda _: None  # raises InputError for unsupported settings


def open_run(folder: Path) -> Experiment:
    """Open the run in ``folder``. Raises InputError if there is none, or if its base model has changed."""
    run_folder = RunFolder(folder)
    if missing := [name for name in (MANIFEST_FILE, SHOTS_FILE) if not run_folder.has(name)]:
        raise InputError(
            f"{folder} is not a run folder: it has no {missing[0]}. Give the folder of a run, an adapter or a student."
        )
    manifest = run_folder.manifest()
    model = resolve_again(manifest.model_name, manifest.model_revision)
    if model.revision != manifest.model_revision:
        raise InputError(
            f"The run {folder} was made with {manifest.model_name} revision {manifest.model_revision}; here it is "
            f"revision {model.revision}. Restore that model, or run again with this one."
        )
    data = TaskData(manifest.task, needs_test=False)
    seeds = [load_shots(data, manifest.settings, run_folder, goes_on=False)]
    return Experiment(data, model, manifest.settings, ["fourshot"], seeds, folder, flat=True)


def teacher_of_run(experiment: Experiment) -> Teacher:
    """Return the annotators of a run as a teacher. Raises InputError if there are none, or not all are trained."""
    writer = experiment.writers[0]
    kind, folder = writer.settings.annotate.annotator, writer.folder.path
    if kind == "none":
        raise InputError(
            f"The run {folder} has no annotator. To annotate with its classifier, give its adapter's folder."
        )
    annotators = experiment.annotators(writer)
    expected = writer.settings.annotate.num_annotators if kind == "adapters" else 0
    if len(annotators) < expected:
        raise InputError(
            f"The run {folder} is not finished: {len(annotators)} of its {expected} annotators are there. Repeat "
            "the command that started it."
        )
    calibrated = writer.folder.has(CALIBRATION_FILE)
    teacher = Teacher(
        name=f"committee of {len(annotators)}" if annotators else f"{experiment.model.name} in context",
        task=experiment.task,
        model_path=experiment.model.path,
        model_revision=experiment.model.revision,
        settings=writer.settings,
        shots=writer.shots,
        annotators=annotators,
        chat=writer.form.chat,
        calibration=read_made(folder / CALIBRATION_FILE, Calibration) if calibrated else NONE,
    )
    return msgspec.structs.replace(teacher, name=f"{teacher.name}, {answers_hash(teacher)}")


def teacher_of_adapter(folder: Path, model: str | None = None) -> Teacher:
    """Return a single adapter as a teacher. Raises as `pipeline.card.base_of`."""
    card = load_card(folder)
    base = base_of(card, folder, model)
    annotate = AnnotateSettings(num_adapters=1, folds=0)
    return Teacher(
        name=card.name,
        task=card.task,
        model_path=base.path,
        model_revision=base.revision,
        settings=RunSettings(annotate=annotate, max_text_words=card.max_text_words, long_texts=card.long_texts),
        shots=card.shots,
        annotators=(card.annotator(folder),),
        calibration=card.calibration,
    )


def annotate_with(
    teacher: Teacher, log: Path, ray: str = "", tell: Callable[[str], None] = lambda line: None
) -> Annotate:
    """Return a function that annotates with engines in separate processes, on this machine or over ``ray``.

    The engines start when the first part is requested. A text that the engine refuses gets a fault, and other texts are
    not affected.
    """

    def annotate(parts: Parts) -> Iterator[list[Annotation]]:
        brief = TaskBrief(
            key=teacher.task.name,
            task=teacher.task,
            shots=teacher.shots,
            settings=teacher.settings,
            chat=teacher.chat,
            annotators=teacher.annotators,
        )
        tell("starting the engine")
        engine = engine_settings(
            teacher.model_path, [annotator.adapter for annotator in teacher.annotators], most_loras=1
        )
        with closing(open_workers(engine, ray, log, teacher.annotators, tell)) as to:
            queue = _Queue(parts)
            while True:
                while to.has_room() and (unit := queue.next_unit(brief.key)):
                    to.give(unit, brief)
                for message in to.wait(WAIT_S):
                    if isinstance(message, UnitResult):
                        queue.take(message, teacher)
                yield from queue.done()
                if queue.is_empty:
                    return

    return annotate


class _Queue:
    """Parts that are being annotated by the engines."""

    def __init__(self, parts: Parts) -> None:
        self._parts = enumerate(parts)
        self._has_more = True
        self._number = 0  # of the next unit
        self._places: dict[int, tuple[int, int]] = {}  # number of a unit -> part, index of its first text in the part
        self._again: deque[tuple[int, int, tuple[str, ...]]] = deque()  # halves of refused units
        self._open: dict[int, list[Annotation | None]] = {}  # unfinished parts, in their order

    @property
    def is_empty(self) -> bool:
        return not (self._has_more or self._open)

    def next_unit(self, brief: str) -> AnnotationUnit | None:
        if self._again:
            part, place, texts = self._again.popleft()
        else:
            number, chunk = next(self._parts, (-1, ()))
            if number < 0:
                self._has_more = False
                return None
            part, place, texts = number, 0, tuple(chunk)
            self._open[part] = [None] * len(texts)
        self._places[self._number] = part, place
        self._number += 1
        return AnnotationUnit(brief=brief, number=self._number - 1, texts=texts)

    def take(self, result: UnitResult, teacher: Teacher) -> None:
        """Store a unit's annotations. A refused unit is halved until single texts are left, which get a fault.

        Raises any other failure of the unit.
        """
        assert isinstance(result.unit, AnnotationUnit)
        part, place = self._places.pop(result.unit.number)
        texts = result.unit.texts
        if result.failure and result.failure.kind != "InputError":
            raise result.failure.error()
        if result.failure and len(texts) > 1:
            half = len(texts) // 2
            self._again += [(part, place, texts[:half]), (part, place + half, texts[half:])]
            return
        if result.failure:
            answers = [Annotation(fault=result.failure.message)]
        else:
            probabilities = np.exp(calibrations.apply(teacher.calibration, np.array(result.scores))).round(6).tolist()
            agreement = result.agreement if len(teacher.annotators) > 1 else [None] * len(texts)
            answers = [
                Annotation(
                    probabilities=tuple(row),
                    agreement=agreed if agreed is None else round(agreed, 3),
                    cut_words=words_left_out(
                        bare_text(teacher.task, text), teacher.settings.max_text_words, teacher.settings.long_texts
                    ),
                )
                for text, row, agreed in zip(texts, probabilities, agreement, strict=True)
            ]
        self._open[part][place : place + len(answers)] = answers

    def done(self) -> Iterator[list[Annotation]]:
        """Yield the complete parts, in order, up to the first incomplete one."""
        while self._open:
            part = next(iter(self._open))
            answers = [answer for answer in self._open[part] if answer is not None]
            if len(answers) < len(self._open[part]):
                return
            del self._open[part]
            yield answers


def engine_annotator(teacher: Teacher, ray: str) -> NamedAnnotator:
    """Return ``teacher`` as an annotator, see `annotate_with`."""

    def open_annotator(log: Path, on_event: OnEvent) -> Annotate:
        return annotate_with(teacher, log, ray, lambda line: on_event(Event(stage="annotate", message=line)))

    return NamedAnnotator(
        name=teacher.name, task=teacher.task, open=open_annotator, shots=teacher.shots, teacher=teacher
    )


def annotator_of_run(experiment: Experiment, ray: str) -> NamedAnnotator:
    """Return the annotators of a run, with its generated texts. Raises as `teacher_of_run`."""
    annotator = engine_annotator(teacher_of_run(experiment), ray)
    return annotator._replace(pairs=experiment.training_texts(experiment.cells[0]).synthetic)


def growing_parts(texts: Iterable[str]) -> Iterator[Sequence[str]]:
    """Yield ``texts`` in parts of `FIRST_PART` to `PART`; each has a quarter of the number of texts before it."""
    iterator, before = iter(texts), 0
    while part := tuple(islice(iterator, min(max(FIRST_PART, before // 4), PART))):
        before += len(part)
        yield part


def parts_of(texts: Iterable[str], size: int = PART) -> Iterator[Sequence[str]]:
    """Yield ``texts`` in their order, in parts of ``size``."""
    iterator = iter(texts)
    while part := tuple(islice(iterator, size)):
        yield part

"""Distillation: a teacher annotates a user's texts, or writes some, and a small encoder learns what it says.

Source: Kaddour & Liu 2024, arXiv 2310.01119: a model that was fine-tuned on little real data teaches a smaller one.

manifest.json     what this distillation is
teacher/          the run folder of a teacher that was trained here
annotated.jsonl   the user's table with what the teacher says; a person may correct it, and the same command goes on
students/<job>/   finished trainings; `student` leads to the one that is the result
remote_teacher.json  how a remote teacher was asked, how right it was, and what that cost
scores/, summary.json, report.html, report.md
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel, resolve_model
from fourshot.engine.machine.files import read_made, write_json
from fourshot.engine.machine.links import check_links
from fourshot.pipeline.cells.measuring import Evaluation
from fourshot.pipeline.cells.run_folder import GENERATED_FILE, RunFolder
from fourshot.pipeline.distillation.annotated_tables import annotated_file
from fourshot.pipeline.distillation.annotating import foretell_annotation
from fourshot.pipeline.distillation.distilled import Distilled, DistillSummary, write_results
from fourshot.pipeline.distillation.readers import NamedReader, Read, run_reader
from fourshot.pipeline.distillation.request import LabelDistillation, teacher_settings
from fourshot.pipeline.distillation.taught import (
    Lesson,
    annotated_texts,
    drawn_texts,
    kept_shots,
    lesson_of,
    student_jobs,
    teacher_measured,
)
from fourshot.pipeline.events import Event
from fourshot.pipeline.forecast import Forecast, foretell
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.remote_teacher import accounted
from fourshot.pipeline.report.students import least_sure
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.plan import teaching_work
from fourshot.pipeline.runs.run import load_shots
from fourshot.pipeline.runs.stage_driver import StageDriver
from fourshot.pipeline.runs.stages import generate, student, style, train
from fourshot.pipeline.runs.stages.student import StudentItem, StudentStage
from fourshot.pipeline.task import Example
from fourshot.pipeline.task_data import TaskData
from fourshot.training.students.encoders import ResolvedEncoder, check_places, resolve_encoder


class _Accepted(NamedTuple):
    """A distillation that can be done, as far as no data of its task says otherwise."""

    request: LabelDistillation  # with the settings of its teacher
    encoder: ResolvedEncoder  # of the student
    base: ResolvedModel | None  # of a teacher that is trained here
    notes: list[str]


def distill(request: LabelDistillation, *, forecast: bool = False) -> DistillSummary:
    """Make the student in its folder, or go on where an earlier call was stopped.

    A task without a test file is not measured. ``forecast``: first tell what the teacher will take.
    Raises InputError for what the user gave, RunFolderError for a folder of something else.
    """
    accepted = _accept(request)
    request, work = accepted.request, RunFolder(request.folder)
    with work.lock():
        check_links(request.folder)
        request.on_event(Event(stage="shots", message="reading the data"))
        data = TaskData(request.task, request.on_event, needs_test=False)
        shots = (request.by.shots if request.by else ()) or tuple(data.shots(request.settings))
        experiment, shot_notes = _experiment(accepted, data), list[str]()
        if experiment:
            shot_notes, shots = kept_shots(experiment.cells[0].shots, shots), experiment.cells[0].shots
        work.claim(request.manifest(accepted.base, accepted.encoder), over_unused=True)
        test = _test(request, data)
        if forecast:
            _foretell(request, experiment, test)
        teacher = _teach(request, experiment)
        read = accounted(teacher.read(request.log, request.on_event), teacher.account, request.folder)
        draws = teacher.draw and request.writes
        pairs = drawn_texts(request, teacher, data, shots) if draws else list(teacher.pairs)
        annotated, notes = annotated_texts(request, teacher.name, read)
        teacher_evaluation = _measure_teacher(request, read, test)
        labels = request.task.label_names
        lesson = lesson_of(request, annotated, pairs, shots, data.test)
        return write_results(
            Distilled(
                request=request,
                encoder=accepted.encoder,
                shots=shots,
                teacher=teacher.name,
                teacher_evaluation=teacher_evaluation,
                annotated=lesson.num_annotated,
                synthetic=lesson.num_written,
                unsure=least_sure(((x.text, x.probabilities) for x in annotated if not x.is_real), labels),
                notes=[*shot_notes, *notes, *accepted.notes, *lesson.notes],
            ),
            _train_students(accepted, lesson, shots, test),
        )


def plan_distillation(request: LabelDistillation) -> Forecast | None:
    """What the teacher of such a `distill` would take; None for one that reads without an engine. Writes nothing."""
    accepted = _accept(request)
    request = accepted.request
    data = TaskData(request.task, request.on_event, needs_test=False)
    experiment = _experiment(accepted, data)
    manifest = request.manifest(accepted.base, accepted.encoder)
    RunFolder(request.folder).check_claim(manifest, over_unused=True)
    return _foretell(request, experiment, _test(request, data), anew=True)


def _accept(request: LabelDistillation) -> _Accepted:
    """Raises InputError for what cannot be done, before anything is written."""
    request.check()
    encoder = resolve_encoder(request.student)
    check_places(encoder, request.student_settings.max_tokens)
    notes = request.tell_unused()
    settings = teacher_settings(request.settings, request.generate)
    base = None if request.by else resolve_model(request.model)
    return _Accepted(msgspec.structs.replace(request, settings=settings), encoder, base, notes)


def _experiment(accepted: _Accepted, data: TaskData) -> Experiment | None:
    """Whose annotators are the teacher; None where that is there already."""
    request, base, folder = accepted.request, accepted.base, accepted.request.teacher_folder
    if base is None:
        return None
    seeds = [load_shots(data, request.settings, RunFolder(folder))]
    experiment = Experiment(data, base, request.settings, ["fourshot"], seeds, folder, flat=True)
    experiment.check_trainable()
    return experiment


def _test(request: LabelDistillation, data: TaskData) -> tuple[Example, ...]:
    """What is measured on; nothing without a test file."""
    return tuple(data.measured(request.settings.test_limit)) if data.test else ()


def _scores_file(request: LabelDistillation, who: str, test: Sequence[Example]) -> Path:
    """What ``who`` got on these test texts: others have other scores."""
    return request.folder / "scores" / f"{who}-{value_hash(tuple(test))}.json"


def _foretell(
    request: LabelDistillation, experiment: Experiment | None, test: Sequence[Example], *, anew: bool = False
) -> Forecast | None:
    """Forecast and tell what the teacher has left to do; None for one that reads without an engine.

    The student's own training, seconds to minutes, is not in it. See `forecast.foretell`.
    """
    table, by = request.unlabelled, request.by
    texts = sum(1 for _ in table.texts()) if table and not annotated_file(table.path, request.folder).exists() else 0
    tested = 0 if _scores_file(request, "teacher", test).exists() else len(test)
    if experiment:
        return foretell(
            experiment.model,
            lambda speed: teaching_work(experiment, texts + tested, speed, writes=request.writes),
            request.on_event,
            anew=anew,
        )
    assert by
    writes = 0 if (request.teacher_folder / GENERATED_FILE).exists() else request.generate
    return foretell_annotation(by, table, texts, request.on_event, tested=tested, writes=writes, anew=anew)


def _teach(request: LabelDistillation, experiment: Experiment | None) -> NamedReader:
    """The teacher, trained on the shots where nobody was named."""
    if experiment is None:
        assert request.by
        return request.by
    driver = StageDriver(request.log, request.on_event, request.placement)
    driver.add(experiment.task.name, experiment)
    driver.do(style.prompt_styles)
    if any(writer.settings.annotate.has_pool for writer in experiment.writers):
        driver.do(generate.pools)
    driver.do(train.annotators)
    driver.do(student.encoders)
    if request.writes:
        driver.do(generate.rounds)
    return run_reader(experiment, request.placement.ray)


def _measure_teacher(request: LabelDistillation, read: Read, test: Sequence[Example]) -> Evaluation | None:
    """The teacher on the test texts, read once; None without any."""
    if not test:
        return None
    file = _scores_file(request, "teacher", test)
    if not file.exists():
        write_json(file, teacher_measured(read, request.task, test, request.on_event))
    return read_made(file, Evaluation)


def _train_students(
    accepted: _Accepted, lesson: Lesson, shots: Sequence[Example], test: tuple[Example, ...]
) -> list[StudentItem]:
    """The student, then the one on the shots alone; both are trained and measured."""
    request, encoder, seed = accepted.request, accepted.encoder, accepted.request.settings.seed
    texts = lesson.annotated, lesson.written
    jobs = student_jobs(request.task, encoder, shots, *texts, request.student_settings, seed)
    items = [
        StudentItem(
            job=job,
            task=request.task,
            test=test,
            out=str(_scores_file(request, f"student-{job.key}", test)),
            onnx=request.onnx and job is jobs[0],
        )
        for job in jobs
    ]
    request.run(StudentStage(model_path=encoder.path, items=tuple(items), store=str(request.folder / "students")))
    return items

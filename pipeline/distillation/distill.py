"""Distillation: a teacher annotates a user's texts, or generates texts, and a small encoder is trained on its labels.

Source: Kaddour & Liu 2024, arXiv 2310.01119: a model fine-tuned on little real data teaches a smaller one.

The folder contains:

manifest.json     the identity of this distillation
teacher/          the run folder of a teacher that was trained here, or the texts of a remote one
annotated.jsonl   the user's table with the teacher's labels; a person may correct it, and the same command continues
students/<job>/   finished trainings; the link `student` leads to the resulting one
remote_teacher.json  how a remote teacher was queried, its accuracy, and its cost
scores/, summary.json, report.html, report.md
forecast.json     forecast and actual time of the last call
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel, resolve_model
from fourshot.engine.machine.files import read_made, write_json
from fourshot.engine.machine.links import check_links
from fourshot.pipeline.cells.measuring import Evaluation
from fourshot.pipeline.cells.run_folder import GENERATED_FILE, RunFolder
from fourshot.pipeline.distillation.annotated_tables import annotated_file
from fourshot.pipeline.distillation.annotating import forecast_of_annotation, texts_left
from fourshot.pipeline.distillation.annotators import Annotate, NamedAnnotator, annotator_of_run
from fourshot.pipeline.distillation.distilled import Distilled, DistillSummary, write_results
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.distillation.taught import (
    Lesson,
    annotated_texts,
    drawn_texts,
    expected_lesson,
    kept_shots,
    lesson_of,
    teacher_measured,
)
from fourshot.pipeline.events import Event
from fourshot.pipeline.forecasts.forecast import FORECAST_FILE, Forecast, make_forecast, record_actual_times
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.remote_teacher import accounted
from fourshot.pipeline.report.students import least_sure
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.plan import teaching_work
from fourshot.pipeline.runs.run import load_shots
from fourshot.pipeline.runs.stage_driver import StageDriver, timed
from fourshot.pipeline.runs.stages import generate, student, style, train
from fourshot.pipeline.runs.stages.student import StudentItem, StudentStage
from fourshot.pipeline.students.jobs import student_jobs
from fourshot.pipeline.students.plan import STUDENTS, forecast_of_students, with_students
from fourshot.pipeline.synthesis.types import TextPairs
from fourshot.pipeline.task import Example
from fourshot.pipeline.task_data import TaskData
from fourshot.training.students.encoders import ResolvedEncoder, check_max_tokens, resolve_encoder

NO_TEACHER = "without the teacher, whose time is unknown"


class _Accepted(NamedTuple):
    """A distillation that passed all checks that do not need the task's data."""

    request: LabelDistillation  # with the settings of its teacher
    encoder: ResolvedEncoder  # of the student
    base: ResolvedModel | None  # of a teacher that is trained here
    notes: list[str]


def distill(request: LabelDistillation, *, forecast: bool = False) -> DistillSummary:
    """Train the student in ``request.folder``, or continue an interrupted call.

    Without a test file, nothing is evaluated. ``forecast``: first report what the call will take. Raises InputError for
    invalid input, and RunFolderError if the folder belongs to something else.
    """
    accepted = _accept(request)
    request, work = accepted.request, RunFolder(request.folder)
    with work.lock():
        check_links(request.folder)
        request.on_event(Event(stage="shots", message="reading the data"))
        data = request.data()
        shots = _shots(request, data)
        experiment, shot_notes = _experiment(accepted, data), list[str]()
        if experiment:
            shot_notes, shots = kept_shots(experiment.cells[0].shots, shots), experiment.cells[0].shots
        work.claim(request.manifest(accepted.base, accepted.encoder), over_unused=True)
        test = _test(request, data)
        estimate = _forecast(accepted, experiment, data, shots, test) if forecast else None
        took = dict[str, float]()
        teacher = _teach(request, experiment, took)
        annotate = accounted(teacher.open(request.log, request.on_event), teacher.account, request.folder)
        draws = teacher.draw and request.writes
        pairs = drawn_texts(request, teacher, data, shots) if draws else list(teacher.pairs)
        with timed(took, "annotate"):
            annotated, notes = annotated_texts(request, teacher.name, annotate)
        with timed(took, "evaluate"):
            teacher_evaluation = _measure_teacher(request, annotate, test)
        labels = request.task.label_names
        lesson = lesson_of(request, annotated, pairs, shots, data.test)
        stage = _students(accepted, lesson, shots, test)
        with timed(took, STUDENTS):
            request.run(stage)
        if estimate:
            estimate = record_actual_times(estimate, took)
            work.write(FORECAST_FILE, estimate)
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
                forecast=estimate,
            ),
            stage.items,
        )


def plan_distillation(request: LabelDistillation) -> Forecast | None:
    """Forecast `distill` without writing anything; None if nothing is left to do."""
    accepted = _accept(request)
    request = accepted.request
    data = request.data()
    experiment = _experiment(accepted, data)
    manifest = request.manifest(accepted.base, accepted.encoder)
    RunFolder(request.folder).check_claim(manifest, over_unused=True)
    shots = experiment.cells[0].shots if experiment else _shots(request, data)
    return _forecast(accepted, experiment, data, shots, _test(request, data), anew=True)


def _accept(request: LabelDistillation) -> _Accepted:
    """Check ``request`` and resolve its models; nothing is written yet. Raises InputError for what cannot be done."""
    request.check()
    encoder = resolve_encoder(request.student)
    check_max_tokens(encoder, request.student_settings.max_tokens)
    notes = request.tell_unused()
    base = None if request.by else resolve_model(request.model)
    return _Accepted(request.with_teacher_settings(), encoder, base, notes)


def _experiment(accepted: _Accepted, data: TaskData) -> Experiment | None:
    """Return the experiment whose annotators are the teacher; None if the teacher exists already."""
    request, base, folder = accepted.request, accepted.base, accepted.request.teacher_folder
    if base is None:
        return None
    seeds = [load_shots(data, request.settings, RunFolder(folder))]
    experiment = Experiment(data, base, request.settings, ["fourshot"], seeds, folder, flat=True)
    experiment.check_trainable()
    if request.writes:
        generate.check_candidates(experiment)
    return experiment


def _shots(request: LabelDistillation, data: TaskData) -> tuple[Example, ...]:
    """Return the shots of an existing teacher if they are known, else those of the data."""
    return (request.by.shots if request.by else ()) or tuple(data.shots(request.settings))


def _test(request: LabelDistillation, data: TaskData) -> tuple[Example, ...]:
    """Return the examples for evaluation; none without a test file."""
    return tuple(data.measured(request.settings.test_limit)) if data.test else ()


def _scores_file(request: LabelDistillation, who: str, test: Sequence[Example]) -> Path:
    """Return the path of the scores of ``who``, which depends on the test texts."""
    return request.folder / "scores" / f"{who}-{value_hash(tuple(test))}.json"


def _written(request: LabelDistillation, experiment: Experiment | None) -> TextPairs:
    """Return the teacher's generated texts; none while the generation is not finished."""
    if request.by and not request.by.draw:
        return list(request.by.pairs)
    if not (request.teacher_folder / GENERATED_FILE).exists():
        return []
    if experiment:
        return experiment.training_texts(experiment.cells[0]).synthetic
    return finished_pairs(RunFolder(request.teacher_folder))


def _forecast(
    accepted: _Accepted,
    experiment: Experiment | None,
    data: TaskData,
    shots: Sequence[Example],
    test: tuple[Example, ...],
    *,
    anew: bool = False,
) -> Forecast | None:
    """Forecast the remaining work of the teacher, if its speed is known, and of the students; report the forecast.

    See `forecast.make_forecast`.
    """
    request, tell = accepted.request, accepted.request.on_event
    table, by = request.unlabelled, request.by
    texts = texts_left(table, annotated_file(table.path, request.folder)) if table else 0
    tested = 0 if _scores_file(request, "teacher", test).exists() else len(test)
    lesson = expected_lesson(request, _written(request, experiment), shots, data.test)
    stage = _students(accepted, lesson, shots, test)
    students = forecast_of_students(stage, accepted.encoder, tell, anew=anew)
    complete = partial(with_students, students=students)
    if experiment:
        texts_by_stage = {"annotate": texts, "evaluate": tested}
        estimate = make_forecast(
            experiment.model,
            lambda speed: teaching_work(experiment, texts_by_stage, speed, writes=request.writes),
            tell,
            anew=anew,
            at_once=request.placement.at_once,
            goes_on=any(experiment.store.glob("*")),
            complete=complete,
        )
    else:
        assert by
        writes = 0 if (request.teacher_folder / GENERATED_FILE).exists() else request.generate
        estimate = forecast_of_annotation(
            by, table, texts, tell, tested=tested, writes=writes, anew=anew, complete=complete
        )
    if estimate is None and students:
        estimate = students
        if texts or tested:
            estimate = msgspec.structs.replace(students, doubt=f"{NO_TEACHER}; {students.doubt}".strip("; "))
        tell(Event(stage="forecast", message=str(estimate)))
    return estimate


def _teach(request: LabelDistillation, experiment: Experiment | None, took: dict[str, float]) -> NamedAnnotator:
    """Return the teacher; unless one was named, it is trained on the shots. Adds seconds by stage to ``took``."""
    if experiment is None:
        assert request.by
        return request.by
    driver = StageDriver(request.log, request.on_event, request.placement)
    driver.add(experiment.task.name, experiment)
    driver.do(style.prompt_styles)
    if any(writer.settings.annotate.has_pool for writer in experiment.writers):
        with timed(took, "draw the pool"):
            driver.do(generate.pools)
    with timed(took, "train the annotators"):
        driver.do(train.annotators)
    with timed(took, "fine-tune the encoders"):
        driver.do(student.encoders)
    if request.writes:
        with timed(took, "generate"):
            driver.do(generate.rounds)
    return annotator_of_run(experiment, request.placement.ray)


def _measure_teacher(request: LabelDistillation, annotate: Annotate, test: Sequence[Example]) -> Evaluation | None:
    """Return the teacher's evaluation on the test texts, which are annotated once; None without test texts."""
    if not test:
        return None
    file = _scores_file(request, "teacher", test)
    if not file.exists():
        write_json(file, teacher_measured(annotate, request.task, test, request.on_event))
    return read_made(file, Evaluation)


def _students(accepted: _Accepted, lesson: Lesson, shots: Sequence[Example], test: tuple[Example, ...]) -> StudentStage:
    """Return the stage that trains and evaluates the student, then the one on the shots alone.

    The latter is for comparison, so it is left out if there are no test texts.
    """
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
        for job in (jobs if test else jobs[:1])
    ]
    return StudentStage(model_path=encoder.path, items=tuple(items), store=str(request.folder / "students"))

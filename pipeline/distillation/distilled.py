"""Results of a distillation: the students' cards, the table, and the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fourshot.engine.machine.files import read_made, write_json
from fourshot.engine.machine.links import link_to
from fourshot.pipeline.cells.measuring import Evaluation
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.faults import as_word
from fourshot.pipeline.forecasts.forecast import FORECAST_FILE, Forecast
from fourshot.pipeline.provenance import installed_versions
from fourshot.pipeline.remote_teacher import REMOTE_FILE, RemoteTeacher
from fourshot.pipeline.report.data import Certainty, Lineage, MethodRow, ReportData, UnsureText, method_row
from fourshot.pipeline.report.students import student_facts
from fourshot.pipeline.report.text import now
from fourshot.pipeline.report.write import write_report
from fourshot.pipeline.rows.fields import sample_argument
from fourshot.pipeline.runs.stages.student import StudentItem, parities
from fourshot.pipeline.selective import CoverageCurve
from fourshot.pipeline.student_card import STUDENT_FILE, STUDENT_LINK, StudentCard, check_student_unchanged, file_hashes
from fourshot.pipeline.task import Example
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.training.students.encoders import ResolvedEncoder
from fourshot.training.students.examples import StudentResult
from fourshot.training.students.onnx_export import Parity
from fourshot.training.students.train import finished_student

UNCALIBRATED = "with --strategy plain that takes 20 annotated texts that are not learnt"
TITLES = ("Student", "The same on the shots alone")


class DistillSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a distillation."""

    folder: str
    student_path: str
    table: list[dict[str, Any]]  # one row per method, as in the report; none without a test file
    annotated_examples: int
    synthetic_examples: int
    strategy: str
    parameters: int
    megabytes: float
    train_s: float
    held_out: int
    held_out_agreement: float | None  # of student and teacher, on held-out texts
    coverage: dict[str, CoverageCurve] = {}  # accuracy against coverage, of "student" and "teacher"
    onnx: list[Parity] = []  # comparison of its ONNX files with the student
    remote_teacher: RemoteTeacher | None = None
    notes: list[str] = []  # for example on texts that were left out
    forecast: Forecast | None = None  # of this call, with the actual time
    report_path: str = ""


class Distilled(msgspec.Struct, frozen=True, kw_only=True):
    """The training data of a distillation's students, and their teacher."""

    request: LabelDistillation  # with the settings of the teacher
    encoder: ResolvedEncoder
    shots: tuple[Example, ...]
    teacher: str
    teacher_evaluation: Evaluation | None
    annotated: int  # texts used for training
    synthetic: int
    unsure: tuple[UnsureText, ...]
    notes: list[str]
    forecast: Forecast | None = None


class _Student(NamedTuple):
    """A finished student."""

    item: StudentItem
    result: StudentResult
    evaluation: Evaluation | None


def write_results(made: Distilled, items: Sequence[StudentItem]) -> DistillSummary:
    """Write cards, summary and report; return the summary.

    ``items``: the student, then, if there are test texts, the one on the shots alone.
    """
    folder = made.request.folder
    remote = remote_teacher_of(folder)
    alone = msgspec.structs.replace(made, teacher="", annotated=0, synthetic=0)
    students = [_carded(made, items[0], remote), *(_carded(alone, item, None) for item in items[1:])]
    (_, main, evaluation), path = students[0], Path(students[0].result.path)
    link_to(folder / STUDENT_LINK, path)
    table = _table(made, students)
    report, _ = write_report(_report(made, table, students), folder)
    measured = {"student": evaluation, "teacher": made.teacher_evaluation}
    summary = DistillSummary(
        folder=str(folder),
        student_path=str(path),
        table=[msgspec.to_builtins(row) for row in table],
        annotated_examples=made.annotated,
        synthetic_examples=made.synthetic,
        strategy=main.strategy,
        parameters=main.parameters,
        megabytes=megabytes(path),
        train_s=round(main.seconds, 1),
        held_out=main.held_out,
        held_out_agreement=main.held_out_agreement,
        coverage={name: evaluation.curve for name, evaluation in measured.items() if evaluation},
        onnx=parities(main),
        remote_teacher=remote,
        notes=made.notes,
        forecast=made.forecast,
        report_path=str(report),
    )
    write_json(folder / "summary.json", summary)
    return summary


def remote_teacher_of(folder: Path) -> RemoteTeacher | None:
    """Return how the distillation in ``folder`` used its remote teacher, with the cost; None without one."""
    file = folder / REMOTE_FILE
    return read_made(file, RemoteTeacher) if file.exists() else None


def megabytes(folder: Path) -> float:
    """Return the size of the files in a checkpoint's folder."""
    return round(sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6, 1)


def _carded(made: Distilled, item: StudentItem, remote: RemoteTeacher | None) -> _Student:
    """Write the card of a finished student, and return the student."""
    result = finished_student(made.request.folder / "students", item.job)
    assert result
    folder = Path(result.path)
    check_student_unchanged(folder)
    evaluation = read_made(Path(item.out), Evaluation) if item.test else None
    card = StudentCard(
        name=result.name,
        task=made.request.task,
        labels=item.job.labels,
        encoder=made.encoder.name,
        encoder_revision=made.encoder.revision,
        teacher=made.teacher,
        strategy=result.strategy,
        training=item.job.settings,
        seed=item.job.seed,
        shots=made.shots,
        real_examples=len(made.shots),
        annotated_examples=made.annotated,
        synthetic_examples=made.synthetic,
        parameters=result.parameters,
        steps=result.steps,
        train_s=round(result.seconds, 2),
        held_out=result.held_out,
        held_out_agreement=result.held_out_agreement,
        scores=evaluation.scores if evaluation else None,
        coverage=evaluation.curve if evaluation else None,
        calibrated_on=result.calibrated_on,
        teacher_scores=made.teacher_evaluation.scores if made.teacher_evaluation else None,
        remote_teacher=remote,
        lineage={"job": item.job.key},
        files=file_hashes(folder),
        onnx=tuple(parities(result)),
    )
    write_json(folder / STUDENT_FILE, card)
    return _Student(item, result, evaluation)


def _table(made: Distilled, students: Sequence[_Student]) -> list[MethodRow]:
    """Return one row per evaluated method."""
    main, *alone = (student.evaluation for student in students)
    methods = (
        ("student", f"Student ({made.encoder.name})", main, made.annotated, made.synthetic),
        *(("shots", TITLES[1], evaluation, 0, 0) for evaluation in alone),
        ("teacher", f"Teacher ({made.teacher})", made.teacher_evaluation, 0, 0),
    )
    rows = []
    for key, name, evaluation, annotated, synthetic in methods:
        if evaluation:
            counts = {"real_examples": len(made.shots), "unlabelled_examples": annotated or None}
            row = method_row(key, name, [evaluation.scores], synthetic_examples=synthetic, **counts)
            # Only the teacher's total time is known, including its start. A student has no prompt.
            seconds = None if key == "teacher" else row.seconds_per_example
            rows.append(msgspec.structs.replace(row, prompt_tokens_per_example=None, seconds_per_example=seconds))
    return rows


def _certainty(result: StudentResult, curve: CoverageCurve | None) -> Certainty:
    return Certainty(
        calibrated_on=result.calibrated_on,
        temperature=result.temperature,
        uncalibrated_because=UNCALIBRATED,
        coverage=curve,
    )


def _report(made: Distilled, table: Sequence[MethodRow], students: Sequence[_Student]) -> ReportData:
    task, (item, result, evaluation) = made.request.task, students[0]
    speed = (evaluation.scores, evaluation.alone_s) if evaluation else (None, None)
    cost = megabytes(Path(result.path)), *speed, parities(result), remote_teacher_of(made.request.folder)
    settings = {"student": item.job.settings, "teacher": made.request.settings}
    return ReportData(
        title=f"{task.name}: a student",
        task=task,
        created=now(),
        num_test=len(item.test),
        methods=tuple(table),
        headline_method="student" if table else "",
        answers=evaluation.answers(task.label_names) if evaluation else (),
        certainty=_certainty(result, evaluation.curve) if evaluation else None,
        facts=student_facts(result, *cost),
        unsure=made.unsure,
        losses={
            title: tuple(enumerate(student.result.losses, start=1))
            for title, student in zip(TITLES, students, strict=False)
            if student.result.losses
        },
        stage_seconds={"train": round(result.seconds, 2)},
        forecast=WorkFolder(made.request.folder).find(FORECAST_FILE, Forecast),
        settings=msgspec.to_builtins(settings),
        versions=installed_versions(),
        lineage=Lineage(
            base_model=made.encoder.name,
            revision=made.encoder.revision,
            hashes={"student": result.name},
            shots=made.shots,
        ),
        try_it=f"fourshot predict {as_word(made.request.folder)} {sample_argument(task)}",
    )

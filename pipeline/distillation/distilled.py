"""What a distillation comes to: its students' cards, the table, and the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.machine.files import read_made, write_json
from fourshot.engine.machine.links import lead
from fourshot.pipeline.cells.measuring import Evaluation
from fourshot.pipeline.provenance import installed_versions
from fourshot.pipeline.remote_teacher import REMOTE_FILE, RemoteTeacher
from fourshot.pipeline.report.data import Lineage, MethodRow, ReportData, method_row
from fourshot.pipeline.report.text import now
from fourshot.pipeline.report.write import write_report
from fourshot.pipeline.rows.fields import sample_argument
from fourshot.pipeline.runs.stages.student import StudentItem, parities
from fourshot.pipeline.selective import CoverageCurve
from fourshot.pipeline.student_card import (
    STUDENT_FILE,
    STUDENT_LINK,
    StudentCard,
    check_kept,
    file_hashes,
)
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task
from fourshot.training.students.encoders import ResolvedEncoder
from fourshot.training.students.examples import StudentResult
from fourshot.training.students.onnx_export import Parity
from fourshot.training.students.train import finished_student


class DistillSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a distillation came to."""

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
    held_out_agreement: float | None  # of student and teacher, on texts that were not learnt
    coverage: dict[str, CoverageCurve] = {}  # accuracy against coverage, of "student" and "teacher"
    onnx: list[Parity] = []  # how its ONNX files answer beside it
    remote_teacher: RemoteTeacher | None = None
    notes: list[str] = []  # what was left out, and why
    report_path: str = ""


def write_results(
    folder: Path,
    task: Task,
    items: Sequence[StudentItem],
    *,
    encoder: ResolvedEncoder,
    teacher: str,
    teacher_evaluation: Evaluation | None,
    shots: Sequence[Example],
    annotated: int,
    synthetic: int,
    settings: RunSettings,
    notes: Sequence[str],
) -> DistillSummary:
    """Write cards, summary and report. ``items``: the student, then the one on the shots alone."""
    remote = read_made(folder / REMOTE_FILE, RemoteTeacher) if (folder / REMOTE_FILE).exists() else None
    results, evaluations = list[StudentResult](), list[Evaluation | None]()
    for number, item in enumerate(items):
        result = finished_student(folder / "students", item.job)
        assert result
        check_kept(Path(result.path))
        evaluation = read_made(Path(item.out), Evaluation) if item.test else None
        results.append(result)
        evaluations.append(evaluation)
        is_taught = number == 0
        card = StudentCard(
            name=result.name,
            task=task,
            labels=item.job.labels,
            encoder=encoder.name,
            encoder_revision=encoder.revision,
            teacher=teacher if is_taught else "",
            strategy=result.strategy,
            training=item.job.settings,
            seed=item.job.seed,
            shots=tuple(shots),
            real_examples=len(shots),
            annotated_examples=annotated if is_taught else 0,
            synthetic_examples=synthetic if is_taught else 0,
            parameters=result.parameters,
            steps=result.steps,
            train_s=round(result.seconds, 2),
            held_out=result.held_out,
            held_out_agreement=result.held_out_agreement,
            scores=evaluation.scores if evaluation else None,
            coverage=evaluation.curve if evaluation else None,
            teacher_scores=teacher_evaluation.scores if teacher_evaluation else None,
            remote_teacher=remote if is_taught else None,
            lineage={"job": item.job.key},
            files=file_hashes(Path(result.path)),
            onnx=tuple(parities(result)),
        )
        write_json(Path(result.path) / STUDENT_FILE, card)
    main, path = results[0], Path(results[0].path)
    lead(folder / STUDENT_LINK, path)
    rows = [
        _row("student", f"Student ({encoder.name})", evaluations[0], len(shots), annotated, synthetic),
        _row("shots", "The same on the shots alone", evaluations[1], len(shots)),
        _row("teacher", f"Teacher ({teacher})", teacher_evaluation, len(shots)),
    ]
    table = [row for row in rows if row]
    report, _ = write_report(_report(folder, task, table, results, items, encoder, shots, settings), folder)
    measured = {"student": evaluations[0], "teacher": teacher_evaluation}
    summary = DistillSummary(
        folder=str(folder),
        student_path=str(path),
        table=[msgspec.to_builtins(row) for row in table],
        annotated_examples=annotated,
        synthetic_examples=synthetic,
        strategy=main.strategy,
        parameters=main.parameters,
        megabytes=round(sum(file.stat().st_size for file in path.iterdir() if file.is_file()) / 1e6, 1),
        train_s=round(main.seconds, 1),
        held_out=main.held_out,
        held_out_agreement=main.held_out_agreement,
        coverage={name: evaluation.curve for name, evaluation in measured.items() if evaluation},
        onnx=parities(main),
        remote_teacher=remote,
        notes=list(notes),
        report_path=str(report),
    )
    write_json(folder / "summary.json", summary)
    return summary


def _row(
    key: str, name: str, evaluation: Evaluation | None, real: int, annotated: int = 0, synthetic: int = 0
) -> MethodRow | None:
    if evaluation is None:
        return None
    row = method_row(
        key,
        name,
        [evaluation.scores],
        real_examples=real,
        synthetic_examples=synthetic,
        unlabelled_examples=annotated or None,
    )
    # Of the teacher only the whole is known, its start included; and a student has no prompt.
    seconds = None if key == "teacher" else row.seconds_per_example
    return msgspec.structs.replace(row, prompt_tokens_per_example=None, seconds_per_example=seconds)


def _report(
    folder: Path,
    task: Task,
    table: Sequence[MethodRow],
    results: Sequence[StudentResult],
    items: Sequence[StudentItem],
    encoder: ResolvedEncoder,
    shots: Sequence[Example],
    settings: RunSettings,
) -> ReportData:
    titles = ("Student", "The same on the shots alone")
    return ReportData(
        title=f"{task.name}: a student",
        task=task,
        created=now(),
        num_test=len(items[0].test),
        methods=tuple(table),
        headline_method="student" if table else "",
        losses={
            title: tuple(enumerate(result.losses, start=1))
            for title, result in zip(titles, results, strict=True)
            if result.losses
        },
        stage_seconds={"train": round(results[0].seconds, 2)},
        settings={"student": msgspec.to_builtins(items[0].job.settings), "teacher": msgspec.to_builtins(settings)},
        versions=installed_versions(),
        lineage=Lineage(
            base_model=encoder.name,
            revision=encoder.revision,
            hashes={"student": results[0].name},
            shots=tuple(shots),
        ),
        try_it=f"fourshot predict {folder} {sample_argument(task)}",
    )

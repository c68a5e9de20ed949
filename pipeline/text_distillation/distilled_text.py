"""Results of the distillation of a text generation task: the student's card, the table, and the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fourshot.engine.machine.files import read_made, write_json
from fourshot.engine.machine.links import link_to
from fourshot.pipeline.distillation.distilled import megabytes, remote_teacher_of
from fourshot.pipeline.distillation.request import TextDistillation
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.remote_teacher import RemoteTeacher
from fourshot.pipeline.report.text import now
from fourshot.pipeline.report.texts import TextExample, TextReport, TextRow, write_text_report
from fourshot.pipeline.runs.stages.write import WrittenAnswer
from fourshot.pipeline.student_card import STUDENT_FILE, STUDENT_LINK, check_student_unchanged, file_hashes
from fourshot.pipeline.tasks.generation import Pair
from fourshot.pipeline.text_distillation.text_students import StudentMade, TextStudents
from fourshot.pipeline.text_metrics import TextScores, score_texts
from fourshot.pipeline.text_student import TextStudentCard

SHOWN = 10  # test inputs in the report


class TextDistillSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Result of the distillation of a text generation task."""

    folder: str
    student_path: str
    table: list[dict[str, Any]]  # one row per method, as in the report; none without a test file
    real_pairs: int
    annotated_pairs: int
    synthetic_pairs: int
    architecture: str
    parameters: int
    megabytes: float
    train_s: float
    notes: list[str] = []  # for example on pairs that were left out
    report_path: str = ""
    remote_teacher: RemoteTeacher | None = None


class TextDistilled(msgspec.Struct, frozen=True, kw_only=True):
    """The students of a distillation, their training data, and their teacher."""

    request: TextDistillation
    students: TextStudents
    teacher: str
    test: Sequence[Pair]
    student: StudentMade
    written_alone: Sequence[WrittenAnswer]  # for the test inputs, by the student trained on the real pairs alone
    written_by_teacher: Sequence[WrittenAnswer]  # for the test inputs, by the teacher
    real: int  # pairs
    annotated: int
    synthetic: int
    notes: list[str]


class _Measured(NamedTuple):
    """One model with its texts for the test inputs."""

    method: str
    display_name: str
    written: Sequence[WrittenAnswer]
    annotated: int  # pairs that it was trained on besides the real ones
    synthetic: int
    scores: TextScores | None


def write_text_results(made: TextDistilled) -> TextDistillSummary:
    """Write card, summary and report, and return the summary."""
    folder, result = made.request.folder, made.student.result
    remote, measured = remote_teacher_of(folder), _measured(made)
    path = Path(result.path)
    check_student_unchanged(path)
    write_json(path / STUDENT_FILE, _card(made, measured, remote))
    link_to(folder / STUDENT_LINK, path)
    report = _report(made, measured)
    page = write_text_report(report, folder)
    summary = TextDistillSummary(
        folder=str(folder),
        student_path=str(path),
        table=[row.as_table_row() for row in report.rows],
        real_pairs=made.real,
        annotated_pairs=made.annotated,
        synthetic_pairs=made.synthetic,
        architecture=made.students.made_of.kind,
        parameters=result.parameters,
        megabytes=megabytes(path),
        train_s=round(result.seconds, 1),
        notes=made.notes,
        report_path=str(page),
        remote_teacher=remote,
    )
    write_json(folder / "summary.json", summary)
    return summary


def _measured(made: TextDistilled) -> list[_Measured]:
    """Return the evaluation of the student, the one on the real pairs alone, and the teacher, in this order."""
    name = f"Student ({made.students.made_of.model.name})"
    writers = (
        ("student", name, made.student.written, made.annotated, made.synthetic),
        ("real", "The same on the real pairs alone", made.written_alone, 0, 0),
        ("teacher", f"Teacher ({made.teacher})", made.written_by_teacher, 0, 0),
    )
    return [_Measured(*writer, scores=_scores(made.request.folder, writer[2], made.test)) for writer in writers]


def _card(made: TextDistilled, measured: Sequence[_Measured], remote: RemoteTeacher | None) -> TextStudentCard:
    students, made_of, result = made.students, made.students.made_of, made.student.result
    training = students.settings.train if made_of.kind == "causal" else students.student_settings
    return TextStudentCard(
        name=result.name,
        task=made.request.task,
        architecture=made_of.kind,
        base=made_of.model.name,
        base_revision=made_of.model.revision,
        teacher=made.teacher,
        training=msgspec.to_builtins(training),
        seed=students.settings.seed,
        max_target_tokens=students.student_settings.max_target_tokens,
        real_pairs=made.real,
        annotated_pairs=made.annotated,
        synthetic_pairs=made.synthetic,
        parameters=result.parameters,
        steps=result.steps,
        train_s=round(result.seconds, 2),
        scores=measured[0].scores,
        teacher_scores=measured[-1].scores,
        remote_teacher=remote,
        lineage={"job": made.student.key},
        files=file_hashes(Path(result.path)),
    )


def _report(made: TextDistilled, measured: Sequence[_Measured]) -> TextReport:
    scores = measured[0].scores
    return TextReport(
        title=f"{made.request.task.name}: student of {made.teacher}",
        created=now(),
        rows=[
            TextRow(
                method=writer.method,
                display_name=writer.display_name,
                scores=writer.scores,
                real_pairs=made.real,
                annotated_pairs=writer.annotated,
                synthetic_pairs=writer.synthetic,
            )
            for writer in measured
            if writer.scores
        ],
        examples=[
            TextExample(
                input=pair.input,
                right=pair.right,
                written={writer.display_name: writer.written[index].text for writer in measured},
            )
            for index, pair in enumerate(made.test[:SHOWN])
        ],
        notes=made.notes,
        signature=scores.signature if scores else "",
    )


def _scores(folder: Path, answers: Sequence[WrittenAnswer], test: Sequence[Pair]) -> TextScores | None:
    """Return the scores of ``answers`` on the test inputs, computed once; None without test inputs.

    An input that could not be read counts as an empty text.
    """
    if not test:
        return None
    # By the complete answers: two models may write the same texts in different times.
    file = folder / "scores" / f"{value_hash((tuple(answers), test))}.json"
    if not file.exists():
        scores = score_texts(
            [answer.text for answer in answers],
            [pair.right for pair in test],
            unfinished=sum(not answer.is_whole for answer in answers),
            seconds=sum(answer.seconds for answer in answers),
        )
        write_json(file, scores)
    return read_made(file, TextScores)

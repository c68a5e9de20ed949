"""What the distillation of a text generation task comes to: its student's card, the table, and the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.machine.files import read_made, write_json
from fourshot.engine.machine.links import lead
from fourshot.pipeline.distillation.text_students import StudentMade
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.remote_teacher import REMOTE_FILE, RemoteTeacher
from fourshot.pipeline.report.text import now
from fourshot.pipeline.report.texts import TextExample, TextReport, TextRow, write_text_report
from fourshot.pipeline.runs.stages.write import WrittenAnswer
from fourshot.pipeline.student_card import STUDENT_FILE, STUDENT_LINK, check_kept, file_hashes
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.generation import GenerationTask, Pair
from fourshot.pipeline.text_metrics import TextScores, score_texts
from fourshot.pipeline.text_student import TextStudentCard
from fourshot.training.students.settings import TextStudentSettings
from fourshot.training.students.text_models import TextModel

SHOWN = 10  # test inputs in the report


class TextDistillSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the distillation of a text generation task came to."""

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
    notes: list[str] = []  # what was left out, and why
    report_path: str = ""
    remote_teacher: RemoteTeacher | None = None


class PairCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What a student learnt."""

    real: int
    annotated: int
    synthetic: int


def write_text_results(
    folder: Path,
    task: GenerationTask,
    results: Sequence[StudentMade],
    made_of: TextModel,
    *,
    teacher: str,
    teacher_output: Sequence[WrittenAnswer],
    test: Sequence[Pair],
    counts: PairCounts,
    settings: RunSettings,
    student_settings: TextStudentSettings,
    notes: Sequence[str],
) -> TextDistillSummary:
    """Write card, summary and report. ``results``: the student, then the one on the real pairs alone."""
    remote = read_made(folder / REMOTE_FILE, RemoteTeacher) if (folder / REMOTE_FILE).exists() else None
    main, alone = results
    outputs = (main.written, alone.written, teacher_output)
    scores = [_scores(folder, output, test) for output in outputs]
    path = Path(main.result.path)
    check_kept(path)
    causal = made_of.kind == "causal"
    card = TextStudentCard(
        name=main.result.name,
        task=task,
        architecture=made_of.kind,
        base=made_of.model.name,
        base_revision=made_of.model.revision,
        teacher=teacher,
        training=msgspec.to_builtins(settings.train if causal else student_settings),
        seed=settings.seed,
        max_target_tokens=student_settings.max_target_tokens,
        real_pairs=counts.real,
        annotated_pairs=counts.annotated,
        synthetic_pairs=counts.synthetic,
        parameters=main.result.parameters,
        steps=main.result.steps,
        train_s=round(main.result.seconds, 2),
        scores=scores[0],
        teacher_scores=scores[2],
        remote_teacher=remote,
        lineage={"job": main.key},
        files=file_hashes(path),
    )
    write_json(path / STUDENT_FILE, card)
    lead(folder / STUDENT_LINK, path)
    names = (f"Student ({made_of.model.name})", "The same on the real pairs alone", f"Teacher ({teacher})")
    learnt = (counts, PairCounts(real=counts.real, annotated=0, synthetic=0), None)
    rows = [
        TextRow(
            method=method,
            display_name=name,
            scores=score,
            real_pairs=counts.real,
            annotated_pairs=of.annotated if of else 0,
            synthetic_pairs=of.synthetic if of else 0,
        )
        for method, name, score, of in zip(("student", "real", "teacher"), names, scores, learnt, strict=True)
        if score
    ]
    report = TextReport(
        title=f"{task.name}: student of {teacher}",
        created=now(),
        rows=rows,
        examples=[
            TextExample(
                input=pair.input,
                right=pair.right,
                written={name: texts[index].text for name, texts in zip(names, outputs, strict=True)},
            )
            for index, pair in list(enumerate(test))[:SHOWN]
        ],
        notes=list(notes),
        signature=scores[0].signature if scores[0] else "",
    )
    page = write_text_report(report, folder)
    summary = TextDistillSummary(
        folder=str(folder),
        student_path=str(path),
        table=[row.as_table_row() for row in rows],
        real_pairs=counts.real,
        annotated_pairs=counts.annotated,
        synthetic_pairs=counts.synthetic,
        architecture=made_of.kind,
        parameters=main.result.parameters,
        megabytes=round(sum(file.stat().st_size for file in path.iterdir() if file.is_file()) / 1e6, 1),
        train_s=round(main.result.seconds, 1),
        notes=list(notes),
        report_path=str(page),
        remote_teacher=remote,
    )
    write_json(folder / "summary.json", summary)
    return summary


def _scores(folder: Path, answers: Sequence[WrittenAnswer], test: Sequence[Pair]) -> TextScores | None:
    """Of what was written for the test inputs, computed once; an input that could not be read counts as nothing."""
    if not test:
        return None
    file = folder / "scores" / f"{value_hash(([answer.text for answer in answers], test))}.json"
    if not file.exists():
        scores = score_texts(
            [answer.text for answer in answers],
            [pair.right for pair in test],
            unfinished=sum(not answer.is_whole for answer in answers),
            seconds=sum(answer.seconds for answer in answers),
        )
        write_json(file, scores)
    return read_made(file, TextScores)

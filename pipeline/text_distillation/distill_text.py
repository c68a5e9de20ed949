"""Distillation of a text generation task: a student is trained on targets, or complete pairs, by a teacher.

Source: Kaddour & Liu 2024, "Synthetic Data Generation in Low-Resource Settings via Fine-Tuning of Large Language
Models" (WebNLG and SGD are its generation tasks).

The folder contains:

manifest.json     the identity of this distillation
pairs.json        the real pairs that teacher and student are trained on
adapters/<job>/   LoRA trainings: of the teacher, and of causal students
written/          the texts of each of them, one line per input
annotated.jsonl   the user's table with the teacher's targets; a person may correct it, and the same command continues
students/<job>/   checkpoints; the link `student` leads to the resulting one
remote_teacher.json  how a remote teacher was queried, and its cost
scores/, summary.json, report.html, report.md
"""

from collections.abc import Sequence
from typing import NamedTuple

from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.machine.links import check_links
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.distillation.annotated_tables import annotated_file
from fourshot.pipeline.distillation.request import TextDistillation, TextDistillManifest
from fourshot.pipeline.distillation.text_pairs import annotated_pairs, learnable_pairs, write_annotated, written_pairs
from fourshot.pipeline.events import Event
from fourshot.pipeline.forecasts.forecast import Forecast
from fourshot.pipeline.rows.examples import limited
from fourshot.pipeline.runs.stages.write import WrittenAnswer
from fourshot.pipeline.settings.effects import Unused, tell_unused
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.generation import GenerationTask, Pair
from fourshot.pipeline.tasks.pairs import load_real, take_real
from fourshot.pipeline.text_distillation.distilled_text import TextDistilled, TextDistillSummary, write_text_results
from fourshot.pipeline.text_distillation.text_plan import Teaching
from fourshot.pipeline.text_distillation.text_students import TextStudents
from fourshot.pipeline.text_distillation.text_teachers import QueriedTeacher, TrainedTeacher
from fourshot.training.jobs.cluster import check_cluster
from fourshot.training.lora.targets import check_trainable
from fourshot.training.students.text_models import resolve_text_model


class _Prepared(NamedTuple):
    """A checked distillation, before anything is written."""

    manifest: TextDistillManifest
    teaching: Teaching
    teacher: TrainedTeacher | QueriedTeacher
    students: TextStudents
    notes: list[str]


def distill_text(request: TextDistillation, *, forecast: bool = False) -> TextDistillSummary:
    """Train the student in ``request.folder``, or continue an interrupted call.

    Without a test file, nothing is evaluated. ``forecast``: first report what the teacher will take. Raises InputError
    for invalid input, and RunFolderError if the folder belongs to something else.
    """
    work = RunFolder(request.folder)
    with work.lock():
        check_links(request.folder)
        manifest, teaching, teacher, students, notes = _prepare(request)
        learnt, test, *_ = teaching
        work.claim(manifest, over_unused=True)
        work.write("pairs.json", learnt)
        if forecast and (request.by or not request.placement.ray):  # forecasts of trainings are for one machine
            teacher.forecast(students)
        tested, annotated, drawn = teacher.work()
        taught, pair_notes = _annotate(request, teacher.name, annotated, teaching)
        written, malformed = written_pairs(request.task, drawn, request.generate, [*learnt, *taught], test)
        student, alone = students.make(learnt, [*taught, *written], test)
        return write_text_results(
            TextDistilled(
                request=request,
                students=students,
                teacher=teacher.name,
                test=test,
                student=student,
                written_alone=alone,
                written_by_teacher=tested,
                real=len(learnt),
                annotated=len(taught),
                synthetic=len(written),
                notes=[*notes, *pair_notes, *malformed],
            )
        )


def plan_text_distillation(request: TextDistillation) -> Forecast | None:
    """Forecast `distill_text` without writing anything; None if nothing is left, or the teacher has no forecast."""
    ready = _prepare(request)
    RunFolder(request.folder).check_claim(ready.manifest, over_unused=True)
    return ready.teacher.forecast(ready.students, anew=True)


def _prepare(request: TextDistillation) -> _Prepared:
    """Check ``request`` and read its data. Raises InputError for anything that cannot be done."""
    check_cluster(request.placement.ray, request.placement.gpus_per_engine)
    request.check()
    settings, by = request.settings, request.by
    base, made_of = resolve_model(request.model) if by is None else None, resolve_text_model(request.student)
    students = TextStudents(request, made_of)
    for model in filter(None, (base, made_of.model if made_of.kind == "causal" else None)):
        check_trainable(model.path, settings.train.target_modules)
    request.on_event(Event(stage="shots", message="reading the data"))
    learnt, test, notes = read_data(request.task, settings, request.real)
    inputs = [text for text in request.unlabelled.inputs if text] if request.unlabelled else []
    teaching = Teaching(learnt, test, inputs, request.generate)
    teacher: TrainedTeacher | QueriedTeacher
    if by:
        teacher = QueriedTeacher(request, by, teaching)
    else:
        assert base
        teacher = TrainedTeacher(request, base, teaching, students.student_settings.max_target_tokens)
    who = f"{base.name}@{base.revision}" if base else teacher.name
    manifest = request.manifest(who, made_of.model, students.student_settings, learnt)
    if by and made_of.kind == "seq2seq":
        unused = [Unused(["train"], "neither this teacher nor this student is trained with LoRA")]
        notes += tell_unused(settings, unused, "shots", request.on_event)
    return _Prepared(manifest, teaching, teacher, students, [*notes, *students.notes])


def _annotate(
    request: TextDistillation, teacher: str, written: Sequence[WrittenAnswer], teaching: Teaching
) -> tuple[list[Pair], list[str]]:
    """Return the pairs for training, from the user's inputs with the targets ``written`` for them, and notes.

    The annotated table is written unless it exists; its content counts, as a person may have corrected it.
    """
    if request.unlabelled is None:
        return [], []
    out = annotated_file(request.unlabelled.path, request.folder)
    if not out.exists():
        write_annotated(request.unlabelled, out, written, teacher)
    pairs, notes = annotated_pairs(request.unlabelled, out, written)
    learnable, left_out = learnable_pairs(pairs, teaching.learnt, teaching.test, "input")
    return learnable, [*notes, *left_out]


def read_data(
    task: GenerationTask, settings: RunSettings, real: int | None
) -> tuple[list[Pair], list[Pair], list[str]]:
    """Return the real pairs, the test pairs (none without a test file), and notes for the report."""
    usable, test, notes = load_real(task)
    learnt = take_real(usable, real, settings.seed)
    if real is None:
        notes.append(f"{len(learnt)} of {len(usable)} real pairs were learnt; --real N or --real all changes this")
    return learnt, limited(test, settings.test_limit or None), notes

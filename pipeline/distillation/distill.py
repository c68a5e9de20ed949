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
from typing import Any

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel, resolve_model
from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import read_made, write_json
from fourshot.engine.machine.links import check_links
from fourshot.pipeline.cells.measuring import Evaluation
from fourshot.pipeline.cells.run_folder import GENERATED_FILE, RunFolder
from fourshot.pipeline.distillation.annotating import annotated_file
from fourshot.pipeline.distillation.distill_check import check_distillation, teacher_settings, unused_settings
from fourshot.pipeline.distillation.distill_plan import foretell_distillation
from fourshot.pipeline.distillation.distilled import DistillSummary, write_results
from fourshot.pipeline.distillation.readers import NamedReader, Teacher, read_with, teacher_of_run
from fourshot.pipeline.distillation.taught import (
    annotated_texts,
    drawn_texts,
    kept_shots,
    learnable,
    learnable_pairs,
    missing_texts,
    student_jobs,
    sure_enough,
    teacher_measured,
    written_texts,
)
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.forecast import Forecast
from fourshot.pipeline.provenance import made_by, value_hash
from fourshot.pipeline.remote_teacher import accounted
from fourshot.pipeline.rows.text_table import TextTable
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.run import load_shots
from fourshot.pipeline.runs.stage_driver import LOG_FILE, StageDriver
from fourshot.pipeline.runs.stage_process import run_stage
from fourshot.pipeline.runs.stages import generate, student, style, train
from fourshot.pipeline.runs.stages.student import StudentItem, StudentStage
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.work_folder import Manifest
from fourshot.training.jobs.jobs import HERE, Placement
from fourshot.training.students.encoders import ResolvedEncoder
from fourshot.training.students.settings import StudentSettings

TEACHER_FOLDER = "teacher"


class DistillManifest(Manifest, frozen=True, kw_only=True):
    """Says which distillation a folder belongs to."""

    schema: int = 1
    task: Task
    settings: RunSettings
    student: StudentSettings
    model: str  # name and revision; "" with a teacher that is there already
    teacher: str
    encoder: str
    encoder_revision: str
    unlabelled: str  # content hash; "" for none
    generate: int
    versions: dict[str, str] = msgspec.field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        fields.pop("student")  # a training is named by its settings: another one lies beside the first
        fields["task"].pop("data")
        fields["settings"] = msgspec.to_builtins(self.settings.untried)
        fields["settings"].pop("test_limit")
        fields["settings"].pop("allow_short")
        return fields


def distill(
    task: Task,
    folder: Path,
    *,
    unlabelled: TextTable | None = None,
    generate_per_class: int = 0,
    by: NamedReader | None = None,
    student: str | None = None,
    student_settings: StudentSettings | None = None,
    model: str | None = None,
    settings: RunSettings | None = None,
    on_event: OnEvent = ignore,
    placement: Placement = HERE,
    onnx: bool = False,
    forecast: bool = False,
) -> DistillSummary:
    """Make a student of ``task`` in ``folder``, or go on where an earlier call was stopped.

    Without ``by`` the teacher is a committee of adapters of ``model``, trained on the shots. A task without a test file
    is not measured. ``onnx``: write the student as ONNX, too. ``forecast``: first tell what the teacher will take.
    Raises InputError for what the user gave, RunFolderError for a folder of something else.
    """
    settings, training = settings or RunSettings(), student_settings or StudentSettings()
    encoder = check_distillation(
        task, unlabelled, generate_per_class, by, student, training, model, settings, placement, onnx=onnx
    )
    unused_notes = unused_settings(settings, by, generate_per_class, on_event)
    settings = teacher_settings(settings, generate_per_class)
    base = None if by else resolve_model(model)
    work = RunFolder(folder)
    with work.lock():
        check_links(folder)
        on_event(Event(stage="shots", message="reading the data"))
        data = TaskData(task, on_event, needs_test=False)
        shots = by.shots if by else ()
        shots = shots or tuple(data.shots(settings))
        experiment = _experiment(data, base, settings, folder) if base else None
        shot_notes = list[str]()
        if experiment:
            experiment.check_trainable()
            shot_notes, shots = kept_shots(experiment.cells[0].shots, shots), experiment.cells[0].shots
        manifest = _manifest(task, settings, training, base, by, encoder, unlabelled, generate_per_class)
        work.claim(manifest, over_unused=True)
        log = folder / LOG_FILE
        test = tuple(data.measured(settings.test_limit)) if data.test else ()
        tested, teacher_file = value_hash(test), _teacher_file(folder, test)  # other test texts, other scores
        writes = generate_per_class > 0
        if forecast:
            num_untested, reader = 0 if teacher_file.exists() else len(test), by or experiment
            assert reader
            to_write = _unwritten(folder, by, generate_per_class)
            foretell_distillation(reader, unlabelled, folder, num_untested, on_event, writes=to_write)
        if by:
            name, pairs = by.name, list(by.pairs)
            read = accounted(by.read(log, on_event), by.account, folder)
            if by.draw and writes:
                pairs = drawn_texts(by, data, shots, settings, folder / TEACHER_FOLDER, log, on_event)
        else:
            assert experiment
            teacher = _train_teacher(experiment, log, on_event, placement, writes=writes)
            read = read_with(teacher, log, placement.ray, lambda line: on_event(Event(stage="annotate", message=line)))
            name = teacher.name
            pairs = experiment.learnt(experiment.cells[0]).synthetic if writes else []
        annotated, notes = annotated_texts(unlabelled, folder, task, name, read, on_event)
        if unlabelled and not (annotated or writes):
            raise InputError(
                f"{annotated_file(unlabelled.path, folder)}: no text has a label, so a student would learn the shots "
                "alone. Put labels in, or remove the file to annotate anew."
            )
        notes = [*shot_notes, *notes, *unused_notes]
        if test and not teacher_file.exists():
            write_json(teacher_file, teacher_measured(read, task, test, on_event))
        taught, left_out = learnable(annotated, shots, data.test)
        pairs, others_left_out = learnable_pairs(pairs, shots, taught, data.test)
        written = written_texts(pairs, task, generate_per_class)
        notes += [*left_out, *others_left_out, *missing_texts(written, generate_per_class * len(task.labels))]
        sure, unsure_notes = sure_enough([taught, written], training.min_confidence)
        jobs = student_jobs(task, encoder, shots, taught, written, training, settings.seed)
        items = [
            StudentItem(
                job=job,
                task=task,
                test=test,
                out=str(folder / "scores" / f"student-{job.key}-{tested}.json"),
                onnx=onnx and job is jobs[0],
            )
            for job in jobs
        ]
        run_stage(
            StudentStage(model_path=encoder.path, items=tuple(items), store=str(folder / "students"), log=str(log)),
            on_event,
        )
        return write_results(
            folder,
            task,
            items,
            encoder=encoder,
            teacher=name,
            teacher_evaluation=read_made(teacher_file, Evaluation) if test else None,
            shots=shots,
            annotated=sure[0],
            synthetic=sure[1],
            settings=settings,
            notes=[*notes, *unsure_notes],
        )


def plan_distillation(
    task: Task,
    folder: Path,
    *,
    unlabelled: TextTable | None = None,
    generate_per_class: int = 0,
    by: NamedReader | None = None,
    student: str | None = None,
    student_settings: StudentSettings | None = None,
    model: str | None = None,
    settings: RunSettings | None = None,
    on_event: OnEvent = ignore,
    placement: Placement = HERE,
    onnx: bool = False,
) -> Forecast | None:
    """What the teacher of such a `distill` would take; None for one that reads without an engine. Writes nothing."""
    settings, training = settings or RunSettings(), student_settings or StudentSettings()
    encoder = check_distillation(
        task, unlabelled, generate_per_class, by, student, training, model, settings, placement, onnx=onnx
    )
    unused_settings(settings, by, generate_per_class, on_event)
    settings = teacher_settings(settings, generate_per_class)
    base = None if by else resolve_model(model)
    data = TaskData(task, on_event, needs_test=False)
    experiment = _experiment(data, base, settings, folder) if base else None
    if experiment:
        experiment.check_trainable()
    manifest = _manifest(task, settings, training, base, by, encoder, unlabelled, generate_per_class)
    RunFolder(folder).check_claim(manifest, over_unused=True)
    reader = by or experiment
    assert reader
    test = tuple(data.measured(settings.test_limit)) if data.test else ()
    tested = 0 if _teacher_file(folder, test).exists() else len(test)
    writes = _unwritten(folder, by, generate_per_class)
    return foretell_distillation(reader, unlabelled, folder, tested, on_event, writes=writes, anew=True)


def _manifest(
    task: Task,
    settings: RunSettings,
    training: StudentSettings,
    base: ResolvedModel | None,
    by: NamedReader | None,
    encoder: ResolvedEncoder,
    unlabelled: TextTable | None,
    per_class: int,
) -> DistillManifest:
    return DistillManifest(
        task=task,
        settings=settings,
        student=training,
        model=f"{base.name}@{base.revision}" if base else "",
        teacher=by.name if by else "",
        encoder=encoder.name,
        encoder_revision=encoder.revision,
        unlabelled=unlabelled.content_hash if unlabelled else "",
        generate=per_class,
        versions=made_by(),
    )


def _experiment(data: TaskData, base: ResolvedModel, settings: RunSettings, folder: Path) -> Experiment:
    """Whose annotators are the teacher."""
    seeds = [load_shots(data, settings, RunFolder(folder / TEACHER_FOLDER))]
    return Experiment(data, base, settings, ["fourshot"], seeds, folder / TEACHER_FOLDER, flat=True)


def _teacher_file(folder: Path, test: Sequence[Example]) -> Path:
    """What the teacher got on these test texts."""
    return folder / "scores" / f"teacher-{value_hash(tuple(test))}.json"


def _unwritten(folder: Path, by: NamedReader | None, per_class: int) -> int:
    """Texts of each class that are left to be written, by a teacher that is asked; of one that is trained, all."""
    return 0 if by and (folder / TEACHER_FOLDER / GENERATED_FILE).exists() else per_class


def _train_teacher(
    experiment: Experiment, log: Path, on_event: OnEvent, placement: Placement, *, writes: bool
) -> Teacher:
    driver = StageDriver(log, on_event, placement)
    driver.add(experiment.task.name, experiment)
    driver.do(style.prompt_styles)
    if any(writer.settings.annotate.has_pool for writer in experiment.writers):
        driver.do(generate.pools)
    driver.do(train.annotators)
    driver.do(student.encoders)
    if writes:
        driver.do(generate.rounds)
    return teacher_of_run(experiment)

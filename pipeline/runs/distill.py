"""Distillation: a teacher annotates a user's texts, or writes some, and a small encoder learns what it says.

Source: Kaddour & Liu 2024, "Synthetic Data Generation in Low-Resource Settings via Fine-Tuning of Large Language
Models" (a language model that was fine-tuned on little real data teaches a much smaller one).

manifest.json     what this distillation is
teacher/          the run folder of a teacher that was trained here
annotated.jsonl   the user's table with what the teacher says; a person may correct it, and the same command goes on
students/<job>/   finished trainings; `student` leads to the one that is the result
scores/, summary.json, report.html, report.md
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import InputError
from fourshot.engine.files import read_json, write_json
from fourshot.engine.models import refuse_fake, resolve_model
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.provenance import installed_versions
from fourshot.pipeline.runs.annotating import (
    AnnotationSummary,
    annotate_table,
    annotated_probabilities,
    unfinished_folder,
)
from fourshot.pipeline.runs.distilled import DistillSummary, write_results
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.measuring import Evaluation, evaluation_of
from fourshot.pipeline.runs.readers import NamedReader, Read, Teacher, parts_of, read_with, teacher_of_run
from fourshot.pipeline.runs.review import TextPairs
from fourshot.pipeline.runs.run import load_shots
from fourshot.pipeline.runs.run_folder import RunFolder
from fourshot.pipeline.runs.stage_driver import LOG_FILE, StageDriver
from fourshot.pipeline.runs.stage_process import run_stage
from fourshot.pipeline.runs.stages import generate, style, train
from fourshot.pipeline.runs.stages.student import StudentItem, StudentStage
from fourshot.pipeline.runs.task_data import TaskData
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.pipeline.tasks.table_files import read_table
from fourshot.pipeline.tasks.tables import normalise
from fourshot.pipeline.tasks.text_table import TextTable
from fourshot.pipeline.tasks.types import Example, Task
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.training.jobs.cluster import check_cluster
from fourshot.training.jobs.jobs import HERE, Placement
from fourshot.training.students.encoders import ResolvedEncoder, resolve_encoder
from fourshot.training.students.examples import StudentJob, TaughtExample
from fourshot.training.students.settings import StudentSettings

TEACHER_FOLDER = "teacher"


class DistillManifest(msgspec.Struct, frozen=True, kw_only=True):
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
    versions: dict[str, str] = {}

    def identity(self) -> dict[str, Any]:
        known: dict[str, Any] = msgspec.to_builtins(self)
        known.pop("versions")
        known.pop("student")  # a training is named by its settings: another one lies beside the first
        known["task"].pop("data")
        known["settings"].pop("test_limit")
        known["settings"].pop("allow_short")
        return known


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
) -> DistillSummary:
    """Make a student of ``task`` in ``folder``, or go on where an earlier call was stopped.

    Without ``by`` the teacher is a committee of adapters of ``model``, trained on the shots. A task without a test file
    is not measured. Raises InputError for what the user gave, RunFolderError for a folder of something else.
    """
    refuse_fake(model, "A distillation")
    if unlabelled is None and not generate_per_class:
        raise InputError("There is nothing for a student to learn. Give --unlabelled FILE, --generate N, or both.")
    if by and generate_per_class and not by.pairs:
        raise InputError(
            "--generate asks a teacher to write texts, and the one of --by has none: name a finished run, or leave "
            "--by out to have a teacher trained that writes."
        )
    check_cluster(placement.ray)
    settings = _teacher_settings(settings or RunSettings(), generate_per_class)
    encoder = resolve_encoder(student)
    base = None if by else resolve_model(model)
    work = RunFolder(folder)
    with work.lock():
        on_event(Event(stage="shots", message="reading the data"))
        data = TaskData(task, on_event, needs_test=False)
        shots = by.shots if by else ()
        shots = shots or tuple(take_shots(task, settings.k, settings.seed, settings.allow_fewer_shots, data.train))
        work.claim(
            DistillManifest(
                task=task,
                settings=settings,
                student=student_settings or StudentSettings(),
                model=f"{base.name}@{base.revision}" if base else "",
                teacher=by.name if by else "",
                encoder=encoder.name,
                encoder_revision=encoder.revision,
                unlabelled=unlabelled.content_hash if unlabelled else "",
                generate=generate_per_class,
                versions=installed_versions(),
            )
        )
        log = folder / LOG_FILE
        if by:
            name, read, pairs = by.name, by.read(log, on_event), list(by.pairs)
        else:
            assert base
            seeds = [load_shots(data, settings, RunFolder(folder / TEACHER_FOLDER))]
            experiment = Experiment(data, base, settings, ["fourshot"], seeds, folder / TEACHER_FOLDER, flat=True)
            teacher = _train_teacher(experiment, log, on_event, placement, writes=generate_per_class > 0)
            name, read = teacher.name, read_with(teacher, log, placement.ray, _starting(on_event))
            pairs = experiment.learnt(experiment.cells[0]).synthetic if generate_per_class else []
        test = tuple(data.measured(settings.test_limit)) if data.test else ()
        teacher_file = folder / "scores" / "teacher.json"
        if test and not teacher_file.exists():
            write_json(teacher_file, _measure(read, task, test, on_event))
        annotated, notes = _annotate(unlabelled, folder, task, name, read, on_event)
        taught, left_out = _learnable(annotated, shots, data.test)
        notes += left_out
        written = _written(pairs, task, generate_per_class)
        jobs = _jobs(task, encoder, shots, taught, written, student_settings or StudentSettings(), settings.seed)
        items = [
            StudentItem(job=job, task=task, test=test, out=str(folder / "scores" / f"student-{job.key}.json"))
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
            teacher_evaluation=read_json(teacher_file, Evaluation) if test else None,
            shots=shots,
            annotated=len(taught),
            synthetic=len(written),
            settings=settings,
            notes=notes,
        )


def _teacher_settings(settings: RunSettings, per_class: int) -> RunSettings:
    """A committee of the shots alone: no pool has to be written before there is anyone to read."""
    annotate = settings.annotate
    if annotate.annotator == "adapters" and annotate.num_adapters:
        annotate = msgspec.structs.replace(annotate, folds=0)
    texts = settings.generate
    if per_class:
        texts = msgspec.structs.replace(texts, per_class=per_class)
    return msgspec.structs.replace(settings, annotate=annotate, generate=texts)


def _train_teacher(
    experiment: Experiment, log: Path, on_event: OnEvent, placement: Placement, *, writes: bool
) -> Teacher:
    experiment.check_trainable()
    driver = StageDriver(log, on_event, placement)
    driver.add(experiment.task.name, experiment)
    driver.do(style.prompt_styles)
    if any(writer.settings.annotate.has_pool for writer in experiment.writers):
        driver.do(generate.pools)
    driver.do(train.on_real_texts)
    if writes:
        driver.do(generate.rounds)
    return teacher_of_run(experiment)


def _starting(on_event: OnEvent) -> Callable[[], None]:
    return lambda: on_event(Event(stage="annotate", message="starting the engine"))


def _measure(read: Read, task: Task, test: Sequence[Example], on_event: OnEvent) -> Evaluation:
    """The teacher on the test texts. One that it refuses to read counts as answered at random."""
    import time

    import numpy as np

    rows: list[tuple[float, ...]] = []
    at_random = (1 / len(task.labels),) * len(task.labels)
    began_s = time.perf_counter()
    for answers in read(parts_of([example.text for example in test])):
        rows += [answer.probabilities or at_random for answer in answers]
        message = "the teacher on the test texts"
        on_event(Event(stage="evaluate", message=message, done=len(rows), total=len(test), unit="texts"))
    return evaluation_of(np.array(rows), task, test, seconds=time.perf_counter() - began_s)


Annotated = list[tuple[str, tuple[float, ...]]]  # text, probabilities


def _annotate(
    given: TextTable | None, folder: Path, task: Task, by: str, read: Read, on_event: OnEvent
) -> tuple[Annotated, list[str]]:
    """The user's texts with what the teacher says, or what a person made of that; and what is to be told."""
    if given is None:
        return [], []
    suffix = given.path.suffix.lower() if given.path.suffix.lower() in (".csv", ".tsv") else ".jsonl"
    out = folder / f"annotated{suffix}"
    summary_file = "annotated.json"
    work = WorkFolder(folder)
    if not out.exists() or unfinished_folder(out).exists():
        out.unlink(missing_ok=True)
        work.write(summary_file, annotate_table(given, out, task.label_names, by, read, on_event=on_event))
    summary = work.read(summary_file, AnnotationSummary)
    rows = [
        (row.get(given.text_column) or "", annotated_probabilities(row, task.label_names))
        for row in read_table(out).rows.values()
    ]
    notes = []
    if summary.blank:
        notes.append(f"{summary.blank} rows without a text were left out")
    if summary.unreadable:
        notes.append(f"{summary.unreadable} texts that the teacher could not read were left out")
    labelled = [(text.strip(), said) for text, said in rows if said is not None and text.strip()]
    if missing := summary.rows - summary.blank - summary.unreadable - len(labelled):
        notes.append(f"{missing} rows whose label was removed from {out.name} were left out")
    return labelled, notes


def _learnable(annotated: Annotated, shots: Sequence[Example], test: Sequence[Example]) -> tuple[Annotated, list[str]]:
    """Without texts that stand there twice, are shots, or are what is measured on; and how many these were."""
    tested, seen = {normalise(one.text) for one in test}, {normalise(one.text) for one in shots}
    kept: Annotated = []
    repeated = measured = 0
    for text, said in annotated:
        key = normalise(text)
        if key in tested:
            measured += 1
        elif key in seen:
            repeated += 1
        else:
            seen.add(key)
            kept.append((text, said))
    notes = [f"{measured} texts that are test texts were not learnt"] if measured else []
    return kept, notes + ([f"{repeated} texts that repeat others were not learnt"] if repeated else [])


def _written(pairs: TextPairs, task: Task, per_class: int) -> Annotated:
    """Up to ``per_class`` kept texts of each class that the teacher wrote, as it reads them."""
    counts = dict.fromkeys(task.label_names, 0)
    written: Annotated = []
    for candidate, verdict in pairs:
        label = verdict.predicted or candidate.label
        if verdict.kept and counts[label] < per_class:
            counts[label] += 1
            said = verdict.probabilities or {label: 1.0}
            total = sum(said.values())
            written.append((candidate.text, tuple(said.get(name, 0.0) / total for name in task.label_names)))
    return written


def _jobs(
    task: Task,
    encoder: ResolvedEncoder,
    shots: Sequence[Example],
    annotated: Annotated,
    written: Annotated,
    settings: StudentSettings,
    seed: int,
) -> list[StudentJob]:
    """The student, and the same on the shots alone, to compare with."""
    names = task.label_names
    real = [
        TaughtExample(text=shot.text, probabilities=tuple(float(name == shot.label) for name in names), is_real=True)
        for shot in shots
    ]
    taught = [TaughtExample(text=text, probabilities=said) for text, said in (*annotated, *written)]

    def job(title: str, examples: Sequence[TaughtExample]) -> StudentJob:
        return StudentJob(
            name=task.name,
            title=f"{task.name}, {title}",
            encoder=encoder.path,
            encoder_revision=encoder.revision,
            labels=names,
            examples=tuple(examples),
            settings=settings,
            seed=seed,
        )

    return [job("student", real + taught), job("student on the shots alone", real)]

"""Distillation of a text generation task: a teacher writes targets for inputs, or whole pairs; a student learns them.

Source: Kaddour & Liu 2024, "Synthetic Data Generation in Low-Resource Settings via Fine-Tuning of Large Language
Models" (WebNLG and SGD are its generation tasks).

manifest.json     what this distillation is
pairs.json        the real pairs that teacher and student learn
adapters/<job>/   trainings through LoRA: of the teacher, and of causal students
written/          what each of them wrote, a line for each input
annotated.jsonl   the user's table with what the teacher wrote; a person may correct it, and the same command goes on
students/<job>/   checkpoints; `student` leads to the one that is the result
remote_teacher.json  how a remote teacher was asked, and what that cost
scores/, summary.json, report.html, report.md
"""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fourshot.engine.checkpoints.models import refuse_fake, resolve_model
from fourshot.engine.errors import InputError
from fourshot.engine.machine.links import check_links
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.distillation.annotating import annotated_file
from fourshot.pipeline.distillation.annotating_text import NamedWriter
from fourshot.pipeline.distillation.distilled_text import PairCounts, TextDistillSummary, write_text_results
from fourshot.pipeline.distillation.text_pairs import (
    BY,
    TARGET,
    annotated_pairs,
    learnable_pairs,
    write_annotated,
    written_pairs,
)
from fourshot.pipeline.distillation.text_students import TextStudents
from fourshot.pipeline.distillation.text_teachers import AskedTeacher, TrainedTeacher
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.forecast import Forecast
from fourshot.pipeline.provenance import made_by, value_hash
from fourshot.pipeline.rows.examples import limited
from fourshot.pipeline.rows.written_table import check_added
from fourshot.pipeline.runs.text_plan import Teaching
from fourshot.pipeline.settings.effects import Unused, tell_unused
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.generation import GenerationTask, Pair
from fourshot.pipeline.tasks.pairs import InputRows, load_real, take_real
from fourshot.pipeline.text_metrics import check_scoring
from fourshot.pipeline.work_folder import Manifest
from fourshot.training.jobs.cluster import check_cluster
from fourshot.training.jobs.jobs import HERE, Placement
from fourshot.training.lora.targets import check_trainable
from fourshot.training.students.settings import TextStudentSettings
from fourshot.training.students.text_models import resolve_text_model

USED = ("train", "seed", "sampling", "test_limit")  # of the settings of a run; the others are of classifiers
OF_LABELS = ("held_out", "label_smoothing")  # of "train", the same


class TextDistillManifest(Manifest, frozen=True, kw_only=True):
    """Says which distillation a folder belongs to."""

    schema: int = 1
    task: GenerationTask
    settings: RunSettings
    student: TextStudentSettings
    model: str  # name and revision
    base: str  # of the student
    real: str  # how many pairs, and their content hash
    unlabelled: str  # content hash; "" for none
    generate: int
    versions: dict[str, str] = msgspec.field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        fields.pop("student")  # a training is named by its settings: another one lies beside the first
        fields["task"].pop("data")
        fields["settings"] = msgspec.to_builtins(self.settings.untried)
        fields["settings"].pop("test_limit")
        return fields


class TextDistillation(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be distilled.

    The teacher is ``by``, else ``model`` (None: the embedded base) with an adapter that learnt ``real`` pairs (0: all;
    None: `USUAL_REAL`, or all where there are fewer).
    """

    task: GenerationTask
    unlabelled: InputRows | None = None  # the teacher writes their targets
    generate: int = 0  # pairs that the teacher writes; of ``by``, a remote one does
    real: int | None = None
    student: str | None = None  # None: the embedded base
    student_settings: TextStudentSettings = TextStudentSettings()
    model: str | None = None
    settings: RunSettings = RunSettings()
    by: NamedWriter | None = None

    def check(self) -> None:
        """Raise InputError for what cannot be done, as far as no file says so."""
        refuse_fake(self.model, "A distillation")
        _check_settings(self.settings)
        if self.unlabelled is None and not self.generate:
            raise InputError("There is nothing for a student to learn. Give --unlabelled FILE, --generate N, or both.")
        if self.by:
            _check_asked(self.by, self.generate, self.model, self.settings)
        check_scoring()
        if self.unlabelled:
            check_added(self.unlabelled.columns, [TARGET, BY])


class _Prepared(NamedTuple):
    """A distillation of which nothing is written yet."""

    manifest: TextDistillManifest
    teaching: Teaching
    teacher: TrainedTeacher | AskedTeacher
    students: TextStudents
    notes: list[str]


def distill_text(
    distillation: TextDistillation,
    folder: Path,
    *,
    on_event: OnEvent = ignore,
    placement: Placement = HERE,
    forecast: bool = False,
) -> TextDistillSummary:
    """Make the student in ``folder``, or go on where an earlier call was stopped.

    A task without a test file is not measured. ``forecast``: first tell what the teacher will take.
    Raises InputError for what the user gave, RunFolderError for a folder of something else.
    """
    task, unlabelled, by = distillation.task, distillation.unlabelled, distillation.by
    work = RunFolder(folder)
    with work.lock():
        check_links(folder)
        ready = _prepared(distillation, folder, on_event, placement)
        (learnt, test, *_), teacher, students, notes = ready.teaching, ready.teacher, ready.students, ready.notes
        work.claim(ready.manifest, over_unused=True)
        work.write("pairs.json", learnt)
        if forecast and (by or not placement.ray):  # of trainings it is of one machine
            teacher.foretell(students)
        tested, annotated, drawn = teacher.work()
        taught, pair_notes = list[Pair](), list[str]()
        if unlabelled:
            out = annotated_file(unlabelled.path, folder)
            if not out.exists():
                write_annotated(unlabelled, out, annotated, teacher.name)
            pairs, pair_notes = annotated_pairs(unlabelled, out, annotated)
            taught, more = learnable_pairs(pairs, learnt, test, "input")
            pair_notes += more
        written, malformed = written_pairs(task, drawn, distillation.generate, [*learnt, *taught], test)
        notes += [*pair_notes, *malformed]
        results = students.make(learnt, [*taught, *written], test)
        return write_text_results(
            folder,
            task,
            results,
            students.made_of,
            teacher=teacher.name,
            teacher_output=tested,
            test=test,
            counts=PairCounts(real=len(learnt), annotated=len(taught), synthetic=len(written)),
            settings=students.settings,
            student_settings=students.student_settings,
            notes=notes,
        )


def plan_text_distillation(
    distillation: TextDistillation, folder: Path, on_event: OnEvent = ignore, placement: Placement = HERE
) -> Forecast | None:
    """What such a `distill_text` would take; None for a teacher that writes without an engine. Writes nothing."""
    ready = _prepared(distillation, folder, on_event, placement)
    RunFolder(folder).check_claim(ready.manifest, over_unused=True)
    return ready.teacher.foretell(ready.students, anew=True)


def _prepared(distillation: TextDistillation, folder: Path, on_event: OnEvent, placement: Placement) -> _Prepared:
    """Raises InputError for whatever cannot be done."""
    check_cluster(placement.ray, placement.gpus_per_engine)
    distillation.check()
    task, settings, by = distillation.task, distillation.settings, distillation.by
    base, made_of = resolve_model(distillation.model) if by is None else None, resolve_text_model(distillation.student)
    students = TextStudents(task, made_of, settings, distillation.student_settings, folder, on_event, placement)
    for model in filter(None, (base, made_of.model if made_of.kind == "causal" else None)):
        check_trainable(model.path, settings.train.target_modules)
    on_event(Event(stage="shots", message="reading the data"))
    learnt, test, notes = read_data(task, settings, distillation.real)
    inputs = [text for text in distillation.unlabelled.inputs if text] if distillation.unlabelled else []
    teaching = Teaching(learnt, test, inputs, distillation.generate)
    teacher: TrainedTeacher | AskedTeacher
    if by:
        teacher = AskedTeacher(by, settings, folder, on_event, teaching)
    else:
        assert base
        most = students.student_settings.max_target_tokens
        teacher = TrainedTeacher(task, base, settings, folder, on_event, placement, teaching, most)
    manifest = TextDistillManifest(
        task=task,
        settings=settings,
        student=students.student_settings,
        model=f"{base.name}@{base.revision}" if base else teacher.name,
        base=f"{made_of.model.name}@{made_of.model.revision}",
        real=f"{len(learnt)} pairs, {value_hash(learnt)}",
        unlabelled=value_hash(distillation.unlabelled.inputs) if distillation.unlabelled else "",
        generate=distillation.generate,
        versions=made_by(),
    )
    if by and made_of.kind == "seq2seq":
        unused = [Unused(["train"], "neither this teacher nor this student learns through LoRA")]
        notes += tell_unused(settings, unused, "shots", on_event)
    return _Prepared(manifest, teaching, teacher, students, [*notes, *students.notes])


def _check_asked(by: NamedWriter, generate: int, model: str | None, settings: RunSettings) -> None:
    """Raise InputError for what a teacher cannot be asked that is there already."""
    if model is not None:
        raise InputError(f"--model is for a teacher that is trained here, and {by.name} is none. Leave it out.")
    if generate and by.draw is None:
        raise InputError(
            f"{by.name} writes targets for inputs, and no pairs of its own: give inputs with --unlabelled FILE, and "
            "leave --generate out."
        )
    if settings.sampling.bias:
        raise InputError("sampling.bias: only a teacher that is trained here can be told that. Leave it out.")


def _check_settings(settings: RunSettings) -> None:
    """Raise InputError for a setting of classifiers, which would change nothing here."""
    usual = RunSettings()
    names = [
        name
        for name in RunSettings.__struct_fields__
        if name not in USED and getattr(settings, name) != getattr(usual, name)
    ]
    if names:
        subject = f"The settings {', '.join(names)} are" if len(names) > 1 else f"The setting {names[0]} is"
        raise InputError(
            f"{subject} of classifiers (--shots, --preset and their like); a text generation task uses "
            f"{', '.join(USED)}. Leave the others out."
        )
    of_labels = [f"train.{name}" for name in OF_LABELS if getattr(settings.train, name) != getattr(usual.train, name)]
    if of_labels:
        raise InputError(f"{' and '.join(of_labels)}: only trainings of classifiers have that. Leave it out.")


def read_data(
    task: GenerationTask, settings: RunSettings, real: int | None
) -> tuple[list[Pair], list[Pair], list[str]]:
    """The real pairs, the test pairs (none without a test file), and what is to be told."""
    usable, test, notes = load_real(task)
    learnt = take_real(usable, real, settings.seed)
    if real is None:
        notes.append(f"{len(learnt)} real pairs were learnt of {len(usable)}; --real N or --real all says otherwise")
    return learnt, limited(test, settings.test_limit or None), notes

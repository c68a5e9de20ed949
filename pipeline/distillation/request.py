"""Requests for a distillation or its plan: their checks, and which settings have no effect."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel, refuse_fake
from fourshot.engine.errors import InputError
from fourshot.pipeline.distillation.annotated_tables import annotated_file, annotation_columns
from fourshot.pipeline.distillation.annotating_text import NamedWriter
from fourshot.pipeline.distillation.annotators import NamedAnnotator
from fourshot.pipeline.distillation.text_pairs import ADDED
from fourshot.pipeline.events import OnEvent, ignore
from fourshot.pipeline.provenance import made_by, value_hash
from fourshot.pipeline.rows.held_cells import check_cells
from fourshot.pipeline.rows.text_table import TextTable
from fourshot.pipeline.rows.written_table import check_added
from fourshot.pipeline.runs.stage_driver import LOG_FILE
from fourshot.pipeline.runs.stage_process import run_stage
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.pipeline.settings.effects import tell_unused, unused_by_teacher, unused_with_teacher
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.tasks.generation import GenerationTask, Pair
from fourshot.pipeline.tasks.pairs import InputRows
from fourshot.pipeline.tasks.shots import check_real
from fourshot.pipeline.text_metrics import check_scoring
from fourshot.pipeline.work_folder import Manifest
from fourshot.training.jobs.cluster import check_cluster
from fourshot.training.jobs.jobs import HERE, Placement
from fourshot.training.students.encoders import ResolvedEncoder
from fourshot.training.students.onnx_export import check_onnx
from fourshot.training.students.settings import StudentSettings, TextStudentSettings

USED = ("train", "seed", "sampling", "test_limit")  # settings of a run that text generation tasks use
OF_LABELS = ("held_out", "label_smoothing")  # settings in "train" that they do not use
MOST_SHOWN = 25  # examples per class in a generation prompt; if there are more, only a few are shown


class DistillationManifest(Manifest, frozen=True, kw_only=True):
    """Fields of the manifest of every distillation."""

    schema: int = 1
    task: Task | GenerationTask
    settings: RunSettings
    student: StudentSettings | TextStudentSettings
    model: str  # name and revision

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        fields.pop("student")  # trainings are named after their settings, so several can be in one folder
        fields["task"].pop("data")
        fields["settings"].pop("test_limit")
        fields["settings"].pop("allow_short")
        return fields


class DistillManifest(DistillationManifest, frozen=True, kw_only=True):
    """Identity of a distillation of a task with labels.

    ``model`` is "" if the teacher exists already.
    """

    task: Task
    student: StudentSettings
    teacher: str  # "" if it is trained here
    encoder: str
    encoder_revision: str
    unlabelled: str  # content hash; "" for none
    generate: int
    real: str = ""  # real training examples, unless the number per class in the settings applies
    versions: dict[str, str] = msgspec.field(default_factory=dict)


class TextDistillManifest(DistillationManifest, frozen=True, kw_only=True):
    """Identity of a distillation of a text generation task.

    ``model`` is the teacher's name if it exists already.
    """

    task: GenerationTask
    student: TextStudentSettings
    base: str  # of the student, name and revision
    real: str  # number of pairs, and their content hash
    unlabelled: str  # content hash; "" for none
    generate: int
    versions: dict[str, str] = msgspec.field(default_factory=dict)


class Distillation(msgspec.Struct, frozen=True, kw_only=True):
    """Request for a distillation of either kind, or for its plan."""

    folder: Path  # of the distillation
    generate: int = 0  # texts per class, or pairs in total, that the teacher generates
    student: str | None = None  # None: the bundled one
    model: str | None = None  # base of a teacher that is trained here; None: the bundled one
    settings: RunSettings = RunSettings()
    on_event: OnEvent = ignore
    placement: Placement = HERE

    @property
    def log(self) -> Path:
        return self.folder / LOG_FILE

    def run(self, stage: Stage) -> None:
        """Run ``stage`` as specified by the placement; the output of libraries is written to the folder's log."""
        run_stage(msgspec.structs.replace(stage, log=str(self.log), placement=self.placement), self.on_event)


class LabelDistillation(Distillation, frozen=True, kw_only=True):
    """Request for a task with labels: the teacher is ``by``, else a committee of adapters trained on the shots."""

    task: Task
    unlabelled: TextTable | None = None  # the teacher annotates its texts
    real: str = ""  # real examples for teacher and student, see `real_examples`; "": `RunSettings.k` per class
    by: NamedAnnotator | None = None
    student_settings: StudentSettings = StudentSettings()
    onnx: bool = False  # also export the student to ONNX

    @property
    def teacher_folder(self) -> Path:
        """Folder of the run of a teacher that is trained here, or of the texts that a remote one generates."""
        return self.folder / "teacher"

    @property
    def writes(self) -> bool:
        """Whether the teacher generates texts."""
        return self.generate > 0

    def check(self) -> None:
        """Raise InputError for what cannot be done, as far as no file says so."""
        refuse_fake(self.model, "A distillation")
        _check_teaches(self.unlabelled, self.generate)
        if self.real:
            self._check_real()
        if self.by and self.generate and not (self.by.pairs or self.by.draw):
            raise InputError(
                "--generate needs a teacher that generates texts, and the one in --by does not. Name a finished run, "
                "or leave --by out to train such a teacher."
            )
        if self.by is None and self.settings.annotate.annotator == "none":
            raise InputError(
                "annotate.annotator (--annotator) is 'none', so there is no teacher. Set another, or name a teacher "
                "with --by."
            )
        if table := self.unlabelled:
            check_added(table.columns, annotation_columns(self.task.label_names))
            out, rows = annotated_file(table.path, self.folder), (row for row, _ in table.rows())
            check_cells(out, table.columns, rows, is_chosen=False)
        if self.by and self.generate:
            self.by.check_draw(teacher_settings(self.settings, self.generate))
        if self.onnx:
            check_onnx()
        check_cluster(self.placement.ray, self.placement.gpus_per_engine)

    def _check_real(self) -> None:
        """Raise InputError if ``real`` is invalid, or if the teacher is not trained here."""
        check_real(self.real)
        if self.by:
            raise InputError(f"--real is for a teacher that is trained here; {self.by.name} is not. Leave it out.")

    def with_teacher_settings(self) -> "LabelDistillation":
        """Return a copy with the teacher's settings; a number of real examples replaces that of shots per class."""
        is_number = self.real.isdigit()
        settings = msgspec.structs.replace(self.settings, k=int(self.real)) if is_number else self.settings
        settings = teacher_settings(settings, self.generate)
        is_share = self.real and not is_number
        if (is_share or settings.k > MOST_SHOWN) and not settings.variety.shots_shown:
            few = msgspec.structs.replace(settings.variety, shots_shown=RunSettings().k)
            settings = msgspec.structs.replace(settings, variety=few)
        return msgspec.structs.replace(self, settings=settings)

    def data(self) -> TaskData:
        """Return the task's splits, with the requested real examples, or all of a class that has fewer."""
        return TaskData(self.task, self.on_event, needs_test=False, real=self.real)

    def tell_unused(self) -> list[str]:
        """Report which settings have no effect; return the notes for the summary."""
        if self.by:
            is_remote, has_shots = self.by.draw is not None, bool(self.by.shots)
            unused = unused_with_teacher(self.settings, is_remote=is_remote, has_shots=has_shots, writes=self.writes)
        else:
            unused = unused_by_teacher(self.settings, writes=self.writes)
        return tell_unused(self.settings, unused, "shots", self.on_event)

    def manifest(self, base: ResolvedModel | None, encoder: ResolvedEncoder) -> DistillManifest:
        """Return the manifest. ``base``: of a teacher that is trained here, else None."""
        return DistillManifest(
            task=self.task,
            settings=self.settings,
            student=self.student_settings,
            model=f"{base.name}@{base.revision}" if base else "",
            teacher=self.by.name if self.by else "",
            encoder=encoder.name,
            encoder_revision=encoder.revision,
            unlabelled=self.unlabelled.content_hash if self.unlabelled else "",
            generate=self.generate,
            real="" if self.real.isdigit() else self.real,  # a number is the settings'
            versions=made_by(),
        )


class TextDistillation(Distillation, frozen=True, kw_only=True):
    """Request for a text generation task: the teacher is ``by``, else an adapter trained on ``real`` pairs."""

    task: GenerationTask
    unlabelled: InputRows | None = None  # the teacher generates their targets
    real: int | None = None  # 0: all; None: `USUAL_REAL`, or all if there are fewer
    by: NamedWriter | None = None
    student_settings: TextStudentSettings = TextStudentSettings()

    def check(self) -> None:
        """Raise InputError for what cannot be done, as far as no file says so."""
        refuse_fake(self.model, "A distillation")
        _check_no_classifier(self.settings)
        _check_teaches(self.unlabelled, self.generate)
        if self.by:
            self._check_asked(self.by)
        check_scoring()
        if self.unlabelled:
            check_added(self.unlabelled.columns, ADDED)

    def _check_asked(self, by: NamedWriter) -> None:
        """Raise InputError for options that an existing teacher does not support."""
        if self.model is not None:
            raise InputError(f"--model is for a teacher that is trained here; {by.name} is not. Leave it out.")
        if self.generate and by.draw is None:
            raise InputError(
                f"{by.name} writes targets for given inputs, but cannot generate pairs. Give inputs with --unlabelled "
                "FILE, and leave --generate out."
            )
        if self.settings.sampling.bias:
            raise InputError("sampling.bias is only supported by a teacher that is trained here. Leave it out.")

    def manifest(
        self, teacher: str, student: ResolvedModel, student_settings: TextStudentSettings, learnt: Sequence[Pair]
    ) -> TextDistillManifest:
        """Return the manifest. ``teacher``: name and revision of its base model, or the name of an existing one."""
        return TextDistillManifest(
            task=self.task,
            settings=self.settings,
            student=student_settings,
            model=teacher,
            base=f"{student.name}@{student.revision}",
            real=f"{len(learnt)} pairs, {value_hash(learnt)}",
            unlabelled=value_hash(self.unlabelled.inputs) if self.unlabelled else "",
            generate=self.generate,
            versions=made_by(),
        )


def _check_teaches(unlabelled: TextTable | InputRows | None, generate: int) -> None:
    if unlabelled is None and not generate:
        raise InputError("There is nothing for a student to learn. Give --unlabelled FILE, --generate N, or both.")


def _check_no_classifier(settings: RunSettings) -> None:
    """Raise InputError for a setting of classifiers, which has no effect in a text generation task."""
    usual = RunSettings()
    names = [
        name
        for name in RunSettings.__struct_fields__
        if name not in USED and getattr(settings, name) != getattr(usual, name)
    ]
    if names:
        subject = f"The settings {', '.join(names)} are" if len(names) > 1 else f"The setting {names[0]} is"
        raise InputError(
            f"{subject} for classifiers (as are --shots, --preset and others); a text generation task uses "
            f"{', '.join(USED)}. Leave the others out."
        )
    of_labels = [f"train.{name}" for name in OF_LABELS if getattr(settings.train, name) != getattr(usual.train, name)]
    if of_labels:
        raise InputError(f"{' and '.join(of_labels)}: only for training classifiers. Leave it out.")


def teacher_settings(settings: RunSettings, per_class: int) -> RunSettings:
    """Return the settings of a teacher: adapters trained on the shots alone, so that no pool must be generated first.

    ``per_class``: texts that it generates per class; 0 leaves the setting.
    """
    annotate = settings.annotate
    if annotate.annotator == "adapters" and annotate.num_annotators > annotate.folds:
        annotate = msgspec.structs.replace(annotate, folds=0)
    texts = settings.generate
    if per_class:
        texts = msgspec.structs.replace(texts, per_class=per_class)
    return msgspec.structs.replace(settings, annotate=annotate, generate=texts)

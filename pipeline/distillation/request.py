"""What is asked of a distillation and of its plan; what of it cannot be done, and which settings have no effect."""

from pathlib import Path

import msgspec

from fourshot.engine.checkpoints.models import refuse_fake
from fourshot.engine.errors import InputError
from fourshot.pipeline.distillation.annotated_tables import annotation_columns
from fourshot.pipeline.distillation.annotating_text import NamedWriter
from fourshot.pipeline.distillation.readers import NamedReader
from fourshot.pipeline.distillation.text_pairs import ADDED
from fourshot.pipeline.events import OnEvent, ignore
from fourshot.pipeline.rows.text_table import TextTable
from fourshot.pipeline.rows.written_table import check_added
from fourshot.pipeline.runs.stage_driver import LOG_FILE
from fourshot.pipeline.settings.effects import tell_unused, unused_by_teacher, unused_with_teacher
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.generation import GenerationTask
from fourshot.pipeline.tasks.pairs import InputRows
from fourshot.pipeline.text_metrics import check_scoring
from fourshot.training.jobs.cluster import check_cluster
from fourshot.training.jobs.jobs import HERE, Placement
from fourshot.training.students.onnx_export import check_onnx
from fourshot.training.students.settings import StudentSettings, TextStudentSettings

USED = ("train", "seed", "sampling", "test_limit")  # of the settings of a run, by text generation tasks
OF_LABELS = ("held_out", "label_smoothing")  # of "train", what they do not use


class Distillation(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of any distillation."""

    folder: Path  # where it is made
    generate: int = 0  # texts of each class, or pairs in all, that the teacher writes
    student: str | None = None  # None: the embedded one
    model: str | None = None  # base of a teacher that is trained here; None: the embedded one
    settings: RunSettings = RunSettings()
    on_event: OnEvent = ignore
    placement: Placement = HERE

    @property
    def log(self) -> Path:
        return self.folder / LOG_FILE


class LabelDistillation(Distillation, frozen=True, kw_only=True):
    """Of a task with labels: the teacher is ``by``, else a committee of adapters that is trained on the shots."""

    task: Task
    unlabelled: TextTable | None = None  # the teacher annotates its texts
    by: NamedReader | None = None
    student_settings: StudentSettings = StudentSettings()
    onnx: bool = False  # write the student as ONNX, too

    @property
    def writes(self) -> bool:
        """Whether the teacher is to write texts."""
        return self.generate > 0

    def check(self) -> None:
        """Raise InputError for what cannot be done, as far as no file says so."""
        refuse_fake(self.model, "A distillation")
        _check_teaches(self.unlabelled, self.generate)
        if self.by and self.generate and not (self.by.pairs or self.by.draw):
            raise InputError(
                "--generate asks a teacher to write texts, and the one of --by has none: name a finished run, or leave "
                "--by out to have a teacher trained that writes."
            )
        if self.by is None and self.settings.annotate.annotator == "none":
            raise InputError(
                "annotate.annotator (--annotator) says who the teacher is, and 'none' is nobody. Set another, or name "
                "a teacher with --by."
            )
        if self.unlabelled:
            check_added(self.unlabelled.columns, annotation_columns(self.task.label_names))
        if self.by and self.generate:
            self.by.check_draw(teacher_settings(self.settings, self.generate))
        if self.onnx:
            check_onnx()
        check_cluster(self.placement.ray, self.placement.gpus_per_engine)

    def tell_unused(self) -> list[str]:
        """Tell which settings have no effect; for the summary, that line."""
        if self.by:
            is_remote, has_shots = self.by.draw is not None, bool(self.by.shots)
            unused = unused_with_teacher(self.settings, is_remote=is_remote, has_shots=has_shots, writes=self.writes)
        else:
            unused = unused_by_teacher(self.settings, writes=self.writes)
        return tell_unused(self.settings, unused, "shots", self.on_event)


class TextDistillation(Distillation, frozen=True, kw_only=True):
    """Of a text generation task: the teacher is ``by``, else a base with an adapter that learnt ``real`` pairs."""

    task: GenerationTask
    unlabelled: InputRows | None = None  # the teacher writes their targets
    real: int | None = None  # 0: all; None: `USUAL_REAL`, or all where there are fewer
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
        """Raise InputError for what a teacher cannot be asked that is there already."""
        if self.model is not None:
            raise InputError(f"--model is for a teacher that is trained here, and {by.name} is none. Leave it out.")
        if self.generate and by.draw is None:
            raise InputError(
                f"{by.name} writes targets for inputs, and no pairs of its own: give inputs with --unlabelled FILE, "
                "and leave --generate out."
            )
        if self.settings.sampling.bias:
            raise InputError("sampling.bias: only a teacher that is trained here can be told that. Leave it out.")


def _check_teaches(unlabelled: TextTable | InputRows | None, generate: int) -> None:
    if unlabelled is None and not generate:
        raise InputError("There is nothing for a student to learn. Give --unlabelled FILE, --generate N, or both.")


def _check_no_classifier(settings: RunSettings) -> None:
    """Raise InputError for a setting of classifiers, which would change nothing of a text generation task."""
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


def teacher_settings(settings: RunSettings, per_class: int) -> RunSettings:
    """A committee of the shots alone: no pool has to be written before there is anyone to read."""
    annotate = settings.annotate
    if annotate.annotator == "adapters" and annotate.num_readers > annotate.folds:
        annotate = msgspec.structs.replace(annotate, folds=0)
    texts = settings.generate
    if per_class:
        texts = msgspec.structs.replace(texts, per_class=per_class)
    return msgspec.structs.replace(settings, annotate=annotate, generate=texts)

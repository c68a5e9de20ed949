"""What a distillation is asked for: what of it cannot be done, and which settings have no effect in it."""

import msgspec

from fourshot.engine.checkpoints.models import refuse_fake
from fourshot.engine.errors import InputError
from fourshot.pipeline.distillation.annotating import annotation_columns
from fourshot.pipeline.distillation.readers import NamedReader
from fourshot.pipeline.events import OnEvent
from fourshot.pipeline.rows.text_table import TextTable
from fourshot.pipeline.rows.written_table import check_added
from fourshot.pipeline.settings.effects import tell_unused, unused_by_teacher, unused_with_teacher
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Task
from fourshot.training.jobs.cluster import check_cluster
from fourshot.training.jobs.jobs import Placement
from fourshot.training.students.encoders import ResolvedEncoder, check_places, resolve_encoder
from fourshot.training.students.onnx_export import check_onnx
from fourshot.training.students.settings import StudentSettings


def check_distillation(
    task: Task,
    unlabelled: TextTable | None,
    per_class: int,
    by: NamedReader | None,
    student: str | None,
    training: StudentSettings,
    model: str | None,
    settings: RunSettings,
    placement: Placement,
    *,
    onnx: bool,
) -> ResolvedEncoder:
    """The encoder of the student. Raises InputError for what cannot be done, before anything is written."""
    refuse_fake(model, "A distillation")
    if unlabelled is None and not per_class:
        raise InputError("There is nothing for a student to learn. Give --unlabelled FILE, --generate N, or both.")
    if by and per_class and not (by.pairs or by.draw):
        raise InputError(
            "--generate asks a teacher to write texts, and the one of --by has none: name a finished run, or leave "
            "--by out to have a teacher trained that writes."
        )
    if by is None and settings.annotate.annotator == "none":
        raise InputError(
            "annotate.annotator (--annotator) says who the teacher is, and 'none' is nobody. Set another, or name a "
            "teacher with --by."
        )
    if unlabelled:
        check_added(unlabelled.columns, annotation_columns(task.label_names))
    if by and per_class:
        by.check_draw(teacher_settings(settings, per_class))
    if onnx:
        check_onnx()
    check_cluster(placement.ray, placement.gpus_per_engine)
    encoder = resolve_encoder(student)
    check_places(encoder, training.max_tokens)
    return encoder


def unused_settings(settings: RunSettings, by: NamedReader | None, per_class: int, on_event: OnEvent) -> list[str]:
    """Tell which of ``settings``, as the user gave them, have no effect; for the summary, that line."""
    writes = per_class > 0
    if by:
        is_remote = by.draw is not None
        unused = unused_with_teacher(settings, is_remote=is_remote, has_shots=bool(by.shots), writes=writes)
    else:
        unused = unused_by_teacher(settings, writes=writes)
    return tell_unused(settings, unused, "shots", on_event)


def teacher_settings(settings: RunSettings, per_class: int) -> RunSettings:
    """A committee of the shots alone: no pool has to be written before there is anyone to read."""
    annotate = settings.annotate
    if annotate.annotator == "adapters" and annotate.num_readers > annotate.folds:
        annotate = msgspec.structs.replace(annotate, folds=0)
    texts = settings.generate
    if per_class:
        texts = msgspec.structs.replace(texts, per_class=per_class)
    return msgspec.structs.replace(settings, annotate=annotate, generate=texts)

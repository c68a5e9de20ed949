"""Which distillation a folder belongs to."""

from collections.abc import Sequence
from typing import Any

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.pipeline.distillation.request import LabelDistillation, TextDistillation
from fourshot.pipeline.distillation.text_students import TextStudents
from fourshot.pipeline.provenance import made_by, value_hash
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.generation import GenerationTask, Pair
from fourshot.pipeline.work_folder import Manifest
from fourshot.training.students.encoders import ResolvedEncoder
from fourshot.training.students.settings import StudentSettings, TextStudentSettings


class DistillationManifest(Manifest, frozen=True, kw_only=True):
    """What that of any distillation has."""

    schema: int = 1
    task: Task | GenerationTask
    settings: RunSettings
    student: StudentSettings | TextStudentSettings
    model: str  # name and revision

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        fields.pop("student")  # a training is named by its settings: another one lies beside the first
        fields["task"].pop("data")
        fields["settings"] = msgspec.to_builtins(self.settings.untried)
        fields["settings"].pop("test_limit")
        fields["settings"].pop("allow_short")
        return fields


class DistillManifest(DistillationManifest, frozen=True, kw_only=True):
    """Of a task with labels; its ``model`` is "" with a teacher that is there already."""

    task: Task
    student: StudentSettings
    teacher: str  # "" for one that is trained here
    encoder: str
    encoder_revision: str
    unlabelled: str  # content hash; "" for none
    generate: int
    versions: dict[str, str] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, request: LabelDistillation, base: ResolvedModel | None, encoder: ResolvedEncoder) -> "DistillManifest":
        return cls(
            task=request.task,
            settings=request.settings,
            student=request.student_settings,
            model=f"{base.name}@{base.revision}" if base else "",
            teacher=request.by.name if request.by else "",
            encoder=encoder.name,
            encoder_revision=encoder.revision,
            unlabelled=request.unlabelled.content_hash if request.unlabelled else "",
            generate=request.generate,
            versions=made_by(),
        )


class TextDistillManifest(DistillationManifest, frozen=True, kw_only=True):
    """Of a text generation task; its ``model`` is the name of a teacher that is there already."""

    task: GenerationTask
    student: TextStudentSettings
    base: str  # of the student, name and revision
    real: str  # how many pairs, and their content hash
    unlabelled: str  # content hash; "" for none
    generate: int
    versions: dict[str, str] = msgspec.field(default_factory=dict)

    @classmethod
    def of(
        cls, request: TextDistillation, base: ResolvedModel | None, students: TextStudents, learnt: Sequence[Pair]
    ) -> "TextDistillManifest":
        made_of, by = students.made_of.model, request.by
        return cls(
            task=request.task,
            settings=request.settings,
            student=students.student_settings,
            model=f"{base.name}@{base.revision}" if base else by.name if by else "",
            base=f"{made_of.name}@{made_of.revision}",
            real=f"{len(learnt)} pairs, {value_hash(learnt)}",
            unlabelled=value_hash(request.unlabelled.inputs) if request.unlabelled else "",
            generate=request.generate,
            versions=made_by(),
        )

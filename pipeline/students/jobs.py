"""The students that a distillation trains."""

from collections.abc import Sequence

import msgspec

from fourshot.pipeline.cells.trainings import taught_shots
from fourshot.pipeline.rows.fields import encoder_text
from fourshot.pipeline.task import Example, Task
from fourshot.training.students.encoders import ResolvedEncoder
from fourshot.training.students.examples import StudentJob, TaughtExample
from fourshot.training.students.settings import StudentSettings


def student_jobs(
    task: Task,
    encoder: ResolvedEncoder,
    shots: Sequence[Example],
    annotated: Sequence[TaughtExample],
    written: Sequence[TaughtExample],
    settings: StudentSettings,
    seed: int,
) -> list[StudentJob]:
    """Return the job of the student, and that of the same encoder on the shots alone, for comparison."""
    real = taught_shots(task, shots, settings.max_tokens)
    taught = [
        msgspec.structs.replace(example, text=encoder_text(task, example.text, settings.max_tokens))
        for example in (*annotated, *written)
    ]

    def job(title: str, examples: Sequence[TaughtExample]) -> StudentJob:
        return StudentJob(
            name=task.name,
            title=f"{task.name}, {title}",
            encoder=encoder.path,
            encoder_revision=encoder.revision,
            labels=task.label_names,
            examples=tuple(examples),
            settings=settings,
            seed=seed,
        )

    return [job("student", real + taught), job("student on the shots alone", real)]

"""The public function of text generation tasks. `fourshot` hands it out on first use, since it loads the rooms."""

from pathlib import Path

from fourshot.api import default_student_folder
from fourshot.engine.errors import InputError
from fourshot.pipeline.events import OnEvent, ignore
from fourshot.pipeline.runs import distill_text as distilling
from fourshot.pipeline.runs.distilled_text import TextDistillSummary
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.generation import GenerationTask
from fourshot.pipeline.tasks.pairs import load_inputs
from fourshot.pipeline.tasks.task_file import load_any_task
from fourshot.training.jobs.jobs import Placement
from fourshot.training.students.settings import TextStudentSettings


def distill_text(
    task: GenerationTask | str | Path,
    *,
    unlabelled: str | Path | None = None,
    generate: int = 0,
    real: int | None = None,
    student: str | None = None,
    student_settings: TextStudentSettings | None = None,
    folder: str | Path | None = None,
    data: str | Path | None = None,
    text_column: str | None = None,
    encoding: str = "",
    model: str | None = None,
    settings: RunSettings | None = None,
    ray: str = "",
    on_event: OnEvent | None = None,
) -> TextDistillSummary:
    """Make a student of a text generation task; the same call goes on where one was stopped.

    The teacher is ``model`` with an adapter that learnt ``real`` pairs (0: all; None: 100, or all where there are
    fewer). It writes targets for the inputs of the table ``unlabelled``, which stand in ``text_column``, or
    ``generate`` pairs of its own, or both. ``student`` is a causal or a sequence-to-sequence model, None the embedded
    base. Other arguments as for `distill`. Raises `InputError` for bad input, `RunFolderError` for a folder of
    something else.
    """
    named = load_any_task(task, data) if isinstance(task, str | Path) else task
    if not isinstance(named, GenerationTask):
        raise InputError(f"{named.name} has labels, and is no text generation task. Use distill.")
    return distilling.distill_text(
        named,
        Path(folder or default_student_folder(named)),
        unlabelled=load_inputs(unlabelled, named.data, text_column, encoding) if unlabelled else None,
        generate=generate,
        real=real,
        student=student,
        student_settings=student_settings,
        model=model,
        settings=settings,
        on_event=on_event or ignore,
        placement=Placement(ray=ray),
    )

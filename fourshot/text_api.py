"""The public functions of text generation tasks. `fourshot` imports them on first use: this module loads packages."""

from pathlib import Path
from typing import Any

from fourshot.api import default_student_folder
from fourshot.engine.errors import InputError
from fourshot.pipeline.arguments import checked
from fourshot.pipeline.card import CARD_FILE
from fourshot.pipeline.cells.run_folder import SHOTS_FILE
from fourshot.pipeline.distillation.annotating_text import (
    NamedWriter,
    TextAnnotationSummary,
    annotate_inputs,
    forecast_of_writing,
    inputs_left,
)
from fourshot.pipeline.distillation.request import TextDistillation
from fourshot.pipeline.events import OnEvent, ignore
from fourshot.pipeline.forecasts.forecast import Forecast
from fourshot.pipeline.student_card import find_student, is_text_student
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tables.types import check_of_unlabelled
from fourshot.pipeline.tasks.generation import GenerationTask
from fourshot.pipeline.tasks.pairs import InputRows, load_inputs
from fourshot.pipeline.tasks.task_file import given_task, load_any_task
from fourshot.pipeline.text_distillation import distill_text as distilling
from fourshot.pipeline.text_distillation.distilled_text import TextDistillSummary
from fourshot.pipeline.text_student import load_text_student_card
from fourshot.pipeline.work_folder import MANIFEST_FILE
from fourshot.serving.clients.remote.settings import RemoteSettings, check_has_address, check_has_model
from fourshot.serving.clients.writers import find_writer
from fourshot.training.jobs.jobs import Placement
from fourshot.training.students.settings import TextStudentSettings


@checked
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
    by: str | Path | None = None,
    key: str | None = None,
    teacher_model: str | None = None,
    remote: RemoteSettings | None = None,
    forecast: bool = False,
) -> TextDistillSummary:
    """Train a student of a text generation task; the same call continues where one was stopped.

    The teacher is ``model`` with an adapter trained on ``real`` pairs (0: all; None: 100, or all where there are
    fewer). It writes targets for the inputs in ``text_column`` of the table ``unlabelled``, or ``generate`` pairs of
    its own, or both. ``student`` is a causal or a sequence-to-sequence model, None the embedded base. ``by`` is a
    student, or the address of a service or of a remote teacher: it then writes the targets, and no teacher is trained.
    Other arguments as for `distill`. Raises `InputError` for bad input, `RunFolderError` for a folder of something
    else.
    """
    named = _generation_task(task, data, "distill")
    request = TextDistillation(
        task=named,
        folder=Path(folder or default_student_folder(named)),
        unlabelled=_inputs(unlabelled, named, text_column, encoding),
        generate=generate,
        real=real,
        student=student,
        student_settings=student_settings or TextStudentSettings(),
        model=model,
        settings=settings or RunSettings(),
        by=_writer(by, named, key, teacher_model, remote, real, settings),
        on_event=on_event or ignore,
        placement=Placement(ray=ray),
    )
    return distilling.distill_text(request, forecast=forecast)


@checked
def plan_text_distillation(
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
    by: str | Path | None = None,
    key: str | None = None,
    teacher_model: str | None = None,
    remote: RemoteSettings | None = None,
) -> Forecast | None:
    """Forecast what `distill_text` would take, as far as this machine's speed determines it.

    None for a teacher that writes without an engine.

    Sends nothing to a remote teacher.
    """
    named = _generation_task(task, data, "distill")
    request = TextDistillation(
        task=named,
        folder=Path(folder or default_student_folder(named)),
        unlabelled=_inputs(unlabelled, named, text_column, encoding),
        generate=generate,
        real=real,
        student=student,
        student_settings=student_settings or TextStudentSettings(),
        model=model,
        settings=settings or RunSettings(),
        by=_writer(by, named, key, teacher_model, remote, real, settings),
        on_event=on_event or ignore,
        placement=Placement(ray=ray),
    )
    return distilling.plan_text_distillation(request)


def _generation_task(task: GenerationTask | str | Path, data: str | Path | None, with_labels: str) -> GenerationTask:
    """Return the task. Raises InputError for one with labels, which names the function for it, ``with_labels``."""
    named = given_task(task, data)
    if not isinstance(named, GenerationTask):
        raise InputError(f"{named.name} has labels, so it is not a text generation task. Use {with_labels}.")
    return named


def _inputs(table: str | Path | None, task: GenerationTask, text_column: str | None, encoding: str) -> InputRows | None:
    check_of_unlabelled(table, text_column, encoding)
    return load_inputs(table, task.data, text_column, encoding) if table else None


def _writer(
    by: str | Path | None,
    task: GenerationTask,
    key: str | None,
    teacher_model: str | None,
    remote: RemoteSettings | None,
    real: int | None,
    settings: RunSettings | None,
) -> NamedWriter | None:
    check_has_model(teacher_model, remote)
    check_has_address(by, teacher_model, key)
    if not by:
        return None
    seed = (settings or RunSettings()).seed
    return find_writer(by, task, key=key, teacher_model=teacher_model, remote=remote, real=real, seed=seed)


@checked
def annotate_text(
    task: GenerationTask | str | Path,
    unlabelled: str | Path,
    out: str | Path,
    *,
    by: str | Path | None = None,
    data: str | Path | None = None,
    text_column: str | None = None,
    encoding: str = "",
    key: str | None = None,
    teacher_model: str | None = None,
    remote: RemoteSettings | None = None,
    on_event: OnEvent | None = None,
    forecast: bool = False,
) -> TextAnnotationSummary:
    """Write a table with a target for each of its inputs; the same call continues where one was stopped.

    ``task`` is a text generation task, or the folder of a student of one. ``by`` is a student, or the address of a
    service or of a remote teacher. By default it is the folder given as ``task``, or the student of the task that
    `distill_text` made. Other arguments as for `annotate`. The table is held in memory.
    """
    writer, inputs = _opened(task, unlabelled, by, data, text_column, encoding, key, teacher_model, remote)
    return annotate_inputs(inputs, Path(out), writer, on_event=on_event or ignore, forecast=forecast)


@checked
def plan_text_annotation(
    task: GenerationTask | str | Path,
    unlabelled: str | Path,
    *,
    out: str | Path | None = None,
    on_event: OnEvent | None = None,
    **arguments: Any,
) -> Forecast | None:
    """Forecast what `annotate_text` with these ``arguments`` would take of a remote teacher; None for others.

    Sends nothing. With ``out``, only inputs without a stored target count, and it raises what `annotate_text` would.
    """
    writer, inputs = _opened(task, unlabelled, **arguments)
    remaining = [text for text in inputs.inputs if text] if out is None else inputs_left(inputs, Path(out))
    return forecast_of_writing(writer, remaining, on_event or ignore)


def _opened(
    task: GenerationTask | str | Path,
    unlabelled: str | Path,
    by: str | Path | None = None,
    data: str | Path | None = None,
    text_column: str | None = None,
    encoding: str = "",
    key: str | None = None,
    teacher_model: str | None = None,
    remote: RemoteSettings | None = None,
) -> tuple[NamedWriter, InputRows]:
    """Return the writer of targets, and the inputs to write for."""
    named: GenerationTask | None = None
    if isinstance(task, str | Path) and (folder := find_student(task)):
        if data is not None:
            raise InputError(f"--data is for tasks, but the folder {task} has its own data. Leave it out.")
        if by is None:
            by = task
        else:
            named = load_text_student_card(folder).task
    else:
        named = _generation_task(task, data, "annotate")
        by = by or default_student_folder(named)
    check_has_model(teacher_model, remote)
    writer = find_writer(by, named, key=key, teacher_model=teacher_model, remote=remote)
    return writer, load_inputs(unlabelled, writer.task.data, text_column, encoding)


def writes_texts(task: object, data: str | Path | None = None) -> bool:
    """Whether ``task`` is a text generation task, or the folder of a student of one."""
    if not isinstance(task, str | Path):
        return isinstance(task, GenerationTask)
    if folder := find_student(task):
        return is_text_student(folder)
    if any((Path(task) / name).is_file() for name in (SHOTS_FILE, CARD_FILE, MANIFEST_FILE)):
        return False
    return isinstance(load_any_task(task, data), GenerationTask)

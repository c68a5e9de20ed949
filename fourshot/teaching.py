"""The public functions of teachers and students: annotate tables, and distil small classifiers from a teacher.

`fourshot` imports them on first use.
"""

from pathlib import Path

import msgspec

from fourshot.api import default_folder, default_student_folder
from fourshot.engine.errors import InputError
from fourshot.pipeline.arguments import checked
from fourshot.pipeline.card import CARD_FILE, load_card
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.distillation import distill as distilling
from fourshot.pipeline.distillation.annotating import (
    AnnotationSummary,
    annotate_table,
    check_annotation,
    forecast_of_annotation,
    texts_left,
)
from fourshot.pipeline.distillation.annotators import NamedAnnotator
from fourshot.pipeline.distillation.distilled import DistillSummary
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.forecasts.forecast import Forecast
from fourshot.pipeline.rows.text_table import TextTable, open_texts
from fourshot.pipeline.rows.unfinished import unfinished_folder
from fourshot.pipeline.student_card import find_student, load_student_card
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tables.types import ReadSettings, check_of_unlabelled
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.task_file import given_task, with_labels
from fourshot.serving.clients.remote.settings import RemoteSettings, check_has_address, check_has_model
from fourshot.serving.clients.teachers import RemoteModel, find_teacher
from fourshot.training.jobs.jobs import Placement
from fourshot.training.students.settings import StudentSettings


@checked
def annotate(
    task: Task | str | Path,
    unlabelled: str | Path,
    out: str | Path,
    *,
    by: str | Path | None = None,
    data: str | Path | None = None,
    text_column: str | None = None,
    encoding: str = "",
    abstain_below: float = 0.0,
    model: str | None = None,
    key: str | None = None,
    ray: str = "",
    on_event: OnEvent | None = None,
    forecast: bool = False,
    teacher_model: str | None = None,
    remote: RemoteSettings | None = None,
) -> AnnotationSummary:
    """Write a table with the label of each of its texts; the same call continues where one was stopped.

    ``task`` is a task, or the folder of a finished run, of a student or an adapter. ``by`` is the annotator: a finished
    run, an adapter, a student, or the address of a service, with its ``key``. By default it is the folder given as
    ``task``, or the task's run in runs/. ``abstain_below``: texts whose best label is less probable get no label.
    ``encoding``: of a text file, where it is not UTF-8. ``forecast`` as for `run`. ``teacher_model``: a model at the
    OpenAI-compatible endpoint whose address is ``by``; ``remote`` says how it is queried and what that may cost.
    Raises `InputError` for bad input, `ServiceError` where a service does not answer, `SpendingLimitError` at a limit.
    """
    teacher = _teacher(task, by, data, model, key, ray, _remote(teacher_model, remote))
    tell = on_event or ignore
    table = _opened(unlabelled, text_column, teacher.task, encoding, tell)
    return annotate_table(
        table,
        Path(out),
        teacher.task.label_names,
        teacher.name,
        teacher.open(unfinished_folder(Path(out)) / "log.txt", tell),
        abstain_below=abstain_below,
        on_event=tell,
        forecast=lambda texts: forecast_of_annotation(teacher, table, texts, tell) if forecast else None,
        account=teacher.account,
    )


@checked
def plan_annotation(
    task: Task | str | Path,
    unlabelled: str | Path,
    *,
    by: str | Path | None = None,
    data: str | Path | None = None,
    text_column: str | None = None,
    encoding: str = "",
    abstain_below: float = 0.0,
    model: str | None = None,
    key: str | None = None,
    ray: str = "",
    on_event: OnEvent | None = None,
    teacher_model: str | None = None,
    remote: RemoteSettings | None = None,
    out: str | Path | None = None,
) -> Forecast | None:
    """Forecast what `annotate` would take, at this machine's present speed; None for annotators without an engine.

    With ``out``, raises what `annotate` would raise.
    """
    teacher = _teacher(task, by, data, model, key, ray, _remote(teacher_model, remote))
    tell = on_event or ignore
    table = _opened(unlabelled, text_column, teacher.task, encoding, tell)
    if out is not None:
        check_annotation(table, Path(out), teacher.task.label_names, abstain_below)
    texts = sum(1 for _ in table.texts()) if out is None else texts_left(table, Path(out))
    return forecast_of_annotation(teacher, table, texts, tell, anew=True)


def _teacher(
    task: Task | str | Path,
    by: str | Path | None,
    data: str | Path | None,
    model: str | None,
    key: str | None,
    ray: str,
    remote: RemoteModel | None,
) -> NamedAnnotator:
    named: Task | None
    if data is not None and isinstance(task, str | Path) and (_is_run(task) or _task_of(Path(task))):
        raise InputError(f"--data is for tasks, but the folder {task} has its own data. Leave it out.")
    if isinstance(task, str | Path) and _is_run(task):
        manifest = RunFolder(task).manifest()
        named, by = (manifest.task if by else None), by or task
        remote = remote and msgspec.structs.replace(remote, run=manifest.settings)
    elif isinstance(task, str | Path) and (known_task := _task_of(Path(task))):
        named, by = (known_task if by else None), by or task
    else:
        named = with_labels(given_task(task, data))
    if by is None:
        assert named
        by = default_folder(named.name)
        if not _is_run(by):
            raise InputError(
                f"there is no finished run of {named.name} in {by} to annotate with. Start one (fourshot train "
                f"{named.name}), or name an annotator with --by."
            )
    return find_teacher(by, named, model=model, key=key, ray=ray, remote=remote)


def _remote(model: str | None, settings: RemoteSettings | None, run: RunSettings | None = None) -> RemoteModel | None:
    check_has_model(model, settings)
    if model is None:
        return None
    return RemoteModel(model=model, settings=settings or RemoteSettings(), run=run or RunSettings())


@checked
def distill(
    task: Task | str | Path,
    *,
    unlabelled: str | Path | None = None,
    generate: int = 0,
    real: int | str | None = None,
    by: str | Path | None = None,
    student: str | None = None,
    student_settings: StudentSettings | None = None,
    folder: str | Path | None = None,
    data: str | Path | None = None,
    text_column: str | None = None,
    encoding: str = "",
    model: str | None = None,
    settings: RunSettings | None = None,
    key: str | None = None,
    ray: str = "",
    onnx: bool = False,
    on_event: OnEvent | None = None,
    forecast: bool = False,
    teacher_model: str | None = None,
    remote: RemoteSettings | None = None,
) -> DistillSummary:
    """Train a small classifier that needs no language model; the same call continues where one was stopped.

    A teacher annotates the texts of the table ``unlabelled``, or writes ``generate`` texts per class, or both. The
    encoder ``student`` (None: the embedded one) is trained on its labels. The teacher is trained on the shots, or is
    ``by``: a finished run, an adapter, a student, or the address of a service, with its ``key``. ``real`` takes more of
    the labelled data than the shots: a number per class, a share such as "5%", or "all". ``onnx`` also exports the
    student to ONNX. ``folder`` defaults to runs/<task>/student. ``teacher_model`` and ``remote`` as for `annotate`,
    other arguments as for `run`. Raises `InputError` for bad input, `ShortRunError` where a class stalls,
    `RunFolderError` for a folder that holds something else, `ServiceError` where a service does not answer,
    `SpendingLimitError` at a limit.
    """
    task = with_labels(given_task(task, data))
    return distilling.distill(
        LabelDistillation(
            task=task,
            folder=Path(folder or default_student_folder(task)),
            unlabelled=_texts(unlabelled, text_column, task, encoding, on_event),
            generate=generate,
            real="" if real is None else str(real),
            by=_by(by, task, model, key, ray, _remote(teacher_model, remote, settings)),
            student=student,
            student_settings=student_settings or StudentSettings(),
            model=model,
            settings=settings or RunSettings(),
            on_event=on_event or ignore,
            placement=Placement(ray=ray),
            onnx=onnx,
        ),
        forecast=forecast,
    )


@checked
def plan_distillation(
    task: Task | str | Path,
    *,
    unlabelled: str | Path | None = None,
    generate: int = 0,
    real: int | str | None = None,
    by: str | Path | None = None,
    student: str | None = None,
    student_settings: StudentSettings | None = None,
    folder: str | Path | None = None,
    data: str | Path | None = None,
    text_column: str | None = None,
    encoding: str = "",
    model: str | None = None,
    settings: RunSettings | None = None,
    key: str | None = None,
    ray: str = "",
    onnx: bool = False,
    on_event: OnEvent | None = None,
    teacher_model: str | None = None,
    remote: RemoteSettings | None = None,
) -> Forecast | None:
    """Forecast what `distill` would take; None where nothing is left to do."""
    task = with_labels(given_task(task, data))
    return distilling.plan_distillation(
        LabelDistillation(
            task=task,
            folder=Path(folder or default_student_folder(task)),
            unlabelled=_texts(unlabelled, text_column, task, encoding, on_event),
            generate=generate,
            real="" if real is None else str(real),
            by=_by(by, task, model, key, ray, _remote(teacher_model, remote, settings)),
            student=student,
            student_settings=student_settings or StudentSettings(),
            model=model,
            settings=settings or RunSettings(),
            on_event=on_event or ignore,
            placement=Placement(ray=ray),
            onnx=onnx,
        )
    )


def _by(
    by: str | Path | None, task: Task, model: str | None, key: str | None, ray: str, remote: RemoteModel | None
) -> NamedAnnotator | None:
    check_has_address(by, remote.model if remote else None, key)
    return find_teacher(by, task, model=model, key=key, ray=ray, remote=remote) if by else None


def _texts(
    file: str | Path | None, text_column: str | None, task: Task, encoding: str, on_event: OnEvent | None
) -> TextTable | None:
    check_of_unlabelled(file, text_column, encoding)
    return _opened(file, text_column, task, encoding, on_event or ignore) if file else None


def _opened(file: str | Path, text_column: str | None, task: Task, encoding: str, tell: OnEvent) -> TextTable:
    """Open a table of texts. Reports, before any work, which columns are read, where these were detected."""
    table = open_texts(file, text_column, task, ReadSettings(encoding=encoding))
    if table.note:
        tell(Event(stage="annotate", message=table.note))
    return table


def _task_of(folder: Path) -> Task | None:
    """Return the task of a student or an adapter; None for a folder of neither."""
    if student := find_student(folder):
        return load_student_card(student).task
    return load_card(folder).task if (folder / CARD_FILE).is_file() else None


def _is_run(folder: Task | str | Path) -> bool:
    return isinstance(folder, str | Path) and (Path(folder) / "shots.json").is_file()

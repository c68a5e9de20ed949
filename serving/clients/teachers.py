"""Find the annotator that a user names: a run, an adapter, a student, or the address of a service or a teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine.errors import InputError, ServiceError
from fourshot.pipeline.cells.run_folder import SHOTS_FILE
from fourshot.pipeline.distillation.annotators import (
    Annotate,
    Annotation,
    NamedAnnotator,
    annotator_of_run,
    engine_annotator,
    open_run,
    teacher_of_adapter,
)
from fourshot.pipeline.events import OnEvent
from fourshot.pipeline.faults import MOST_NAMED, shorten
from fourshot.pipeline.rows.fields import encoder_text
from fourshot.pipeline.student_card import check_unchanged, find_student, load_student_card, student_left_out
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Task
from fourshot.pipeline.task_data import TaskData
from fourshot.serving.adapter_lookup import find_adapter
from fourshot.serving.api import FEW_TEXTS, TEXT_ERROR_CODES
from fourshot.serving.clients.address import without_password
from fourshot.serving.clients.calls import BATCH, check_version
from fourshot.serving.clients.remote.settings import KEY_VARIABLES, RemoteSettings
from fourshot.serving.clients.remote.teacher import remote_teacher

if TYPE_CHECKING:
    from fourshot.serving.clients.client import Client


class RemoteModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model behind an OpenAI-compatible address, and the shots that it is shown."""

    model: str
    settings: RemoteSettings = RemoteSettings()
    run: RunSettings = RunSettings()  # which shots


def find_teacher(
    by: str | Path,
    task: Task | None = None,
    *,
    model: str | None = None,
    key: str | None = None,
    ray: str = "",
    remote: RemoteModel | None = None,
) -> NamedAnnotator:
    """Return the annotator that ``by`` names. ``task``: whose labels it must have; an address needs one.

    ``remote``: the model to query if ``by`` is the address of an OpenAI-compatible endpoint, not of a service.
    Raises InputError if there is no annotator, or one of other labels; otherwise as `LocalClassifier` and `Client`.
    """
    if str(by).startswith(("http://", "https://")):
        if task is None:
            raise InputError("A service (--by ADDRESS) needs a task: name one in place of the run.")
        if remote:
            return _remote(str(by), task, remote, model, key, ray)
        _check_alone(model, ray, f"a service annotates at {without_password(str(by))}")
        return _service(str(by), task, key)
    folder = Path(by)
    if remote:
        raise InputError(
            f"--teacher-model is for an address, but {by} is not one: addresses begin with http:// or https://. "
            "Correct it, or leave --teacher-model out if that is a folder."
        )
    if key is not None:
        raise InputError(f"--key is for a service, but {by} is a folder. Leave it out.")
    if student := find_student(folder):
        annotator = _student(student, model, ray)
    elif (folder / SHOTS_FILE).is_file():
        if model is not None:
            raise InputError(f"--model is for an adapter; the run {by} has its own base model. Leave it out.")
        annotator = annotator_of_run(open_run(folder), ray)
    else:
        annotator = engine_annotator(teacher_of_adapter(find_adapter(folder), model), ray)
    if task and annotator.task.label_names != task.label_names:
        raise InputError(
            f"{by} distinguishes {shorten(annotator.task.label_names, MOST_NAMED)}; the task {task.name} has the "
            f"labels {shorten(task.label_names, MOST_NAMED)}. Name one with the same labels, in the same order."
        )
    return annotator


def _remote(url: str, task: Task, remote: RemoteModel, model: str | None, key: str | None, ray: str) -> NamedAnnotator:
    _check_alone(model, ray, f"{remote.model} annotates at {without_password(url)}")
    if key is not None:
        raise InputError(f"A teacher's key is set in the environment, as {KEY_VARIABLES[0]}. Leave --key out.")
    run = remote.run
    shots = TaskData(task, needs_test=False).shots(run)
    form = PromptFormat(max_text_words=run.max_text_words, long_texts=run.long_texts)
    return remote_teacher(url, remote.model, task, shots, remote.settings, form)


def _check_alone(model: str | None, ray: str, who: str) -> None:
    """Raise InputError for options of models on this machine; ``who`` says what annotates instead."""
    for option, value in (("--model", model), ("--ray", ray)):
        if value:
            raise InputError(f"{option} is for models on this machine; {who}. Leave it out.")


def _student(folder: Path, model: str | None, ray: str) -> NamedAnnotator:
    if model is not None:
        raise InputError(f"{folder} is a student, which needs no base model. Leave --model out.")
    if ray:
        raise InputError(f"{folder} is a student, which runs on this machine only. Leave --ray out.")
    card = load_student_card(folder)
    check_unchanged(folder, card.files)

    def open_annotator(log: Path, on_event: OnEvent) -> Annotate:
        from fourshot.training.students.classifier import StudentClassifier

        max_tokens = card.training.max_tokens
        classifier = StudentClassifier(folder, max_tokens)

        def ask(texts: Sequence[str]) -> list[Annotation]:
            inputs = [encoder_text(card.task, text, max_tokens) for text in texts]
            return [
                _annotation(row, student_left_out(card.task, text, max_tokens, classifier.read_chars))
                for text, row in zip(texts, classifier.probabilities(inputs).tolist(), strict=True)
            ]

        return lambda parts: map(ask, parts)

    return NamedAnnotator(name=card.name, task=card.task, open=open_annotator, shots=card.shots)


def _service(url: str, task: Task, key: str | None) -> NamedAnnotator:
    from fourshot.serving.clients.client import Client

    try:
        with Client(url, key) as client:
            served = next((info for info in client.tasks().tasks if info.task == task.name), None)
    except ServiceError as error:
        if error.kind == "strange_answer":  # no service of ours
            error.args = (f"{error} For an OpenAI-compatible endpoint, name a model (--teacher-model).",)
        raise
    shown = without_password(url)
    if served is None:
        raise InputError(f"{shown} serves no task {task.name!r}. GET {shown}/v1/tasks lists what it serves.")
    if tuple(served.labels) != task.label_names:
        raise InputError(
            f"{shown} serves {task.name} with the labels {', '.join(served.labels)}; the task here has the labels "
            f"{shorten(task.label_names, MOST_NAMED)}."
        )

    def open_annotator(log: Path, on_event: OnEvent) -> Annotate:
        def ask(texts: Sequence[str]) -> list[Annotation]:
            with Client(url, key) as client:
                answers = _classified(client, task.name, served.adapter, texts)
            if len(texts) >= FEW_TEXTS and all(answer.fault for answer in answers):
                raise ServiceError(f"{shown} annotated none of {len(texts)} texts: {answers[0].fault}")
            return answers

        return lambda parts: map(ask, parts)

    return NamedAnnotator(name=f"{shown} {served.adapter or 'in context'}", task=task, open=open_annotator)


def _classified(client: "Client", task: str, adapter: str, texts: Sequence[str]) -> list[Annotation]:
    """Annotate ``texts``, at most `BATCH` per request. A text that is refused gets a fault; the others are annotated.

    Raises ServiceError for a fault that no text causes, and if another version than ``adapter`` is used.
    """
    if len(texts) <= BATCH:
        try:
            answer = client.classify(task, texts)
        except ServiceError as error:
            if error.code not in TEXT_ERROR_CODES:
                raise
            if len(texts) == 1:
                return [Annotation(fault=str(error))]
        else:
            check_version(task, answer.adapter, adapter)
            return [_annotation(list(result.probabilities.values()), result.cut_words) for result in answer.results]
    half = len(texts) // 2
    return [part for some in (texts[:half], texts[half:]) for part in _classified(client, task, adapter, some)]


def _annotation(probabilities: Sequence[float], cut_words: int = 0) -> Annotation:
    return Annotation(probabilities=tuple(round(p, 6) for p in probabilities), cut_words=cut_words)

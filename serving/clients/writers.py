"""Find the writer of targets that a user names: a student, or the address of a service or of a remote teacher."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from fourshot.engine.errors import InputError, ServiceError
from fourshot.pipeline.distillation.annotating_text import NamedWriter, Parts, Write
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.runs.stages.write import WrittenAnswer
from fourshot.pipeline.student_card import check_unchanged, find_student, is_text_student
from fourshot.pipeline.tasks.generation import GenerationTask
from fourshot.pipeline.text_student import FEW, Generator, TextWritten, load_text_student_card
from fourshot.serving.api import FEW_TEXTS, TEXT_ERROR_CODES
from fourshot.serving.clients.address import without_password
from fourshot.serving.clients.remote.settings import RemoteSettings


def find_writer(
    by: str | Path,
    task: GenerationTask | None = None,
    *,
    key: str | None = None,
    teacher_model: str | None = None,
    remote: RemoteSettings | None = None,
    real: int | None = None,
    seed: int = 0,
) -> NamedWriter:
    """Return the writer that ``by`` names. ``task``: an address needs one, a student knows its own.

    ``teacher_model``: the model to query if ``by`` is the address of an OpenAI-compatible endpoint, not of a service.
    It is shown some of the ``real`` pairs that ``seed`` draws. Raises InputError if ``by`` names no writer.
    """
    if str(by).startswith(("http://", "https://")):
        if task is None:
            raise InputError("An address (--by or --teacher) needs a task: name one.")
        if teacher_model:
            from fourshot.serving.clients.remote.writer import remote_writer

            return remote_writer(str(by), teacher_model, task, remote or RemoteSettings(), real=real, seed=seed)
        return _service(str(by), task, key)
    for option, value in (("--teacher-model", teacher_model), ("--key", key)):
        if value is not None:
            raise InputError(
                f"{option} is for an address, but {by} is not one: addresses begin with http:// or https://. Correct "
                f"it, or leave {option} out if that is a folder."
            )
    folder = find_student(by)
    if folder is None or not is_text_student(folder):
        raise InputError(
            f"{by} is not a student that generates texts, which a text generation task needs. Give the folder of one, "
            "or of the distillation that made it, or the address of a service."
        )
    card = load_text_student_card(folder)
    check_unchanged(folder, card.files)

    def write(log: Path, on_event: OnEvent) -> Write:
        def of_parts(parts: Parts) -> Iterator[list[WrittenAnswer]]:
            first = next(parts)
            on_event(Event(stage="annotate", message=f"opening {card.name}"))
            with Generator(folder, many=len(first) > FEW) as generator:
                yield _written(generator.generate, first)
                for part in parts:
                    yield _written(generator.generate, part)

        return of_parts

    return NamedWriter(name=card.name, task=card.task, write=write)


def _written(generate: Callable[[Sequence[str]], list[TextWritten]], inputs: Sequence[str]) -> list[WrittenAnswer]:
    """Return the text for each input. One that is refused, or fails, gets a fault; the others are still processed."""
    try:
        return [WrittenAnswer(text=made.text, is_whole=made.is_whole, is_cut=made.is_cut) for made in generate(inputs)]
    except (InputError, ServiceError) as error:
        if isinstance(error, ServiceError) and error.code not in TEXT_ERROR_CODES:
            raise  # not caused by a text
        if len(inputs) == 1:
            return [WrittenAnswer(text="", fault=str(error))]
        half = len(inputs) // 2
        return [*_written(generate, inputs[:half]), *_written(generate, inputs[half:])]


def _service(url: str, task: GenerationTask, key: str | None) -> NamedWriter:
    from fourshot.serving.clients.calls import WRITTEN_BATCH, check_version, generate_calls, written
    from fourshot.serving.clients.client import Client

    with Client(url, key) as client:
        served = next((info for info in client.tasks().tasks if info.task == task.name), None)
    shown = without_password(url)
    if served is None or not served.kind:
        raise InputError(
            f"{shown} serves no text generation task {task.name!r}. GET {shown}/v1/tasks lists what it serves."
        )

    def generate(client: Client, inputs: Sequence[str]) -> list[TextWritten]:
        # `Client.generate` returns the texts without the version that wrote them.
        answers = [client._ask(call) for call in generate_calls(task.name, inputs, WRITTEN_BATCH)]
        for answer in answers:
            check_version(task.name, answer.student, served.adapter)
        return written(answers)

    def write(log: Path, on_event: OnEvent) -> Write:
        def of_parts(parts: Parts) -> Iterator[list[WrittenAnswer]]:
            with Client(url, key) as client:
                for part in parts:
                    answers = _written(partial(generate, client), part)
                    if len(answers) >= FEW_TEXTS and all(answer.fault for answer in answers):
                        raise ServiceError(f"{shown} generated none of {len(answers)} texts: {answers[0].fault}")
                    yield answers

        return of_parts

    return NamedWriter(name=f"{shown} {served.adapter}", task=task, write=write)

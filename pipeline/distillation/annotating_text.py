"""Annotates a table of inputs of a text generation task with a target for each.

Targets are stored in parts next to the output table, so a kill loses only the part in progress.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from fourshot.engine.machine.files import append_lines, read_lines, remove_folder
from fourshot.pipeline.distillation.annotators import parts_of
from fourshot.pipeline.distillation.text_pairs import ADDED, write_annotated
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.forecasts.forecast import Forecast
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.remote_teacher import REMOTE_FILE, RemoteTeacher, accounted
from fourshot.pipeline.rows.held_cells import check_cells
from fourshot.pipeline.rows.unfinished import ANSWERS_FILE, may_be_written, num_lines, place_table, unfinished_folder
from fourshot.pipeline.rows.written_table import check_written
from fourshot.pipeline.runs.stages.write import WrittenAnswer
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.generation import GenerationTask, Pair
from fourshot.pipeline.tasks.pairs import InputRows
from fourshot.pipeline.work_folder import Manifest, WorkFolder

PART = 32  # inputs; at most these are lost by a kill
Parts = Iterator[Sequence[str]]
Write = Callable[[Parts], Iterator[list[WrittenAnswer]]]  # one list for each part, in their order
Draw = Callable[[Iterator[range]], Iterator[list[WrittenAnswer]]]  # the same for pairs, in the teacher's own format


class NamedWriter(NamedTuple):
    """A model that generates targets for inputs: a student, a service, or a remote teacher."""

    name: str  # changes whenever the generated texts would
    task: GenerationTask
    write: Callable[[Path, OnEvent], Write]  # arguments: log file, callback for progress
    # Of a remote teacher: the forecast, given sample inputs and the number of texts by stage; and the cost so far.
    forecast: Callable[[Sequence[str], dict[str, int]], Forecast] | None = None
    account: Callable[[], RemoteTeacher | None] = lambda: None
    # Generates new pairs, numbered from 0; further arguments: the real pairs, and the settings of a run.
    draw: Callable[[Path, OnEvent, Sequence[Pair], RunSettings], Draw] | None = None


class TextAnnotationManifest(Manifest, frozen=True, kw_only=True):
    """Identity of the targets stored next to an unfinished table."""

    inputs: str  # content hash
    by: str


class TextAnnotationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Result of annotating a table of inputs."""

    out: str
    by: str
    rows: int
    written: int  # rows with a target
    blank: int = 0  # rows without an input
    unfinished: int = 0  # rows whose target was incomplete at the length limit, and is left empty
    unreadable: int = 0  # rows whose input was refused, or for which nothing was generated
    why_unreadable: str = ""  # the reason for the first refused one
    cut: int = 0  # rows whose input was truncated
    warnings: tuple[str, ...] = ()  # from reading the table
    forecast: Forecast | None = None
    remote_teacher: RemoteTeacher | None = None


def annotate_inputs(
    table: InputRows,
    out: Path,
    writer: NamedWriter,
    *,
    on_event: OnEvent = ignore,
    forecast: bool = False,
) -> TextAnnotationSummary:
    """Write the rows of ``table`` with targets by ``writer`` to ``out``; resume an interrupted call.

    Raises InputError if ``out`` exists, or if ``table`` already has one of the added columns.
    """
    inputs = [text for text in table.inputs if text]
    beside = WorkFolder(unfinished_folder(out))
    manifest = TextAnnotationManifest(inputs=value_hash(table.inputs), by=writer.name)
    with beside.lock():
        if not may_be_written(out, beside, manifest, len(inputs)):
            check_written(out, table.columns, ADDED)
        check_cells(out, table.columns, table.rows)
        beside.claim(manifest, over_unused=True)
        file = beside.path / ANSWERS_FILE
        remaining_inputs = inputs[len(read_lines(file, WrittenAnswer)) :]
        estimate = forecast_of_writing(writer, remaining_inputs, on_event) if forecast and remaining_inputs else None
        write_lines(writer, inputs, file, on_event, "writing", account_in=beside.path)
        answers = read_lines(file, WrittenAnswer)
        place_table(out, beside, lambda file: write_annotated(table, file, answers, writer.name))
        remote = beside.find(REMOTE_FILE, RemoteTeacher)
        remove_folder(beside.path)
    faulty = sum(bool(answer.fault or not answer.text) for answer in answers)
    unfinished = sum(not answer.is_whole for answer in answers if not answer.fault and answer.text)
    return TextAnnotationSummary(
        out=str(out),
        by=writer.name,
        rows=len(table.inputs),
        written=len(answers) - faulty - unfinished,
        blank=len(table.inputs) - len(inputs),
        unfinished=unfinished,
        unreadable=faulty,
        why_unreadable=next((answer.fault for answer in answers if answer.fault), ""),
        cut=sum(answer.is_cut for answer in answers),
        warnings=table.notes,
        forecast=estimate,
        remote_teacher=remote,
    )


def inputs_left(table: InputRows, out: Path) -> list[str]:
    """Return the inputs of ``table`` without a stored target. Raises InputError if ``out`` cannot be written."""
    check_written(out, table.columns, ADDED)
    check_cells(out, table.columns, table.rows)
    return [text for text in table.inputs if text][num_lines(unfinished_folder(out) / ANSWERS_FILE) :]


def write_lines(
    writer: NamedWriter, inputs: Sequence[str], file: Path, on_event: OnEvent, message: str, *, account_in: Path
) -> None:
    """Generate targets for those of ``inputs`` that ``file`` lacks, and append a line for each.

    The cost of a remote teacher so far is stored in the folder ``account_in``.
    """
    done = len(read_lines(file, WrittenAnswer))
    file.parent.mkdir(parents=True, exist_ok=True)
    if done == len(inputs):
        return
    write = accounted(writer.write(file.with_name("log.txt"), on_event), writer.account, account_in)
    for answers in write(parts_of(inputs[done:], PART)):
        append_lines(file, answers)
        done += len(answers)
        on_event(Event(stage="annotate", message=message, done=done, total=len(inputs), unit="texts"))


def forecast_of_writing(
    writer: NamedWriter, inputs: Sequence[str], on_event: OnEvent, *, tested: Sequence[str] = (), pairs: int = 0
) -> Forecast | None:
    """Forecast the requests to a remote teacher for the inputs and ``pairs`` new pairs, and report them.

    Returns None for other teachers, and if nothing is left. ``tested``: test inputs that also get a target.
    """
    if writer.forecast is None or not (inputs or tested or pairs):
        return None
    counts = {"annotate": len(inputs), "generate": pairs, "evaluate": len(tested)}
    estimate = writer.forecast([*inputs, *tested], counts)
    on_event(Event(stage="forecast", message=str(estimate)))
    return estimate

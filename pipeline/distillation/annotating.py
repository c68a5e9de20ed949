"""A table of a user's texts, annotated: what each is, how likely that is, who says so, and how far they agree.

Answers are on the disk part by part, beside the table that will be written, so a kill costs the part in work.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import append_lines, remove_folder
from fourshot.pipeline.distillation.annotated_tables import AGREEMENT, BY, LABEL, PROBABILITY, annotation_columns
from fourshot.pipeline.distillation.readers import Annotation, NamedReader, Read, growing_parts
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.forecasts.forecast import Forecast, foretell, settled
from fourshot.pipeline.forecasts.work_counts import TokenCounts
from fourshot.pipeline.remote_teacher import REMOTE_FILE, RemoteTeacher, accounted
from fourshot.pipeline.rows.held_cells import check_cells
from fourshot.pipeline.rows.text_table import TextTable
from fourshot.pipeline.rows.unfinished import ANSWERS_FILE, may_be_written, num_lines, place_table, unfinished_folder
from fourshot.pipeline.rows.written_table import check_written, write_table
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.task import Example
from fourshot.pipeline.work_folder import Manifest, WorkFolder

SAMPLE = 100  # texts whose length a forecast knows


class AnnotationManifest(Manifest, frozen=True, kw_only=True):
    """What the answers beside an unfinished table are."""

    table: str  # content hash
    labels: tuple[str, ...]
    by: str


class AnnotationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What an annotation came to."""

    out: str
    by: str
    rows: int
    labelled: dict[str, int]  # by label
    abstained: int = 0  # rows of which nobody was sure enough
    blank: int = 0  # rows without a text
    unreadable: int = 0  # rows whose text was refused
    why_unreadable: str = ""  # of the first of these
    cut: int = 0  # rows whose text was too long to be read whole
    cut_words: int = 0  # of these, that were not read
    agreement: float | None = None  # mean, where several read
    warnings: tuple[str, ...] = ()  # of how the table was read
    forecast: Forecast | None = None  # what was foretold of this call, beside what it took
    remote_teacher: RemoteTeacher | None = None  # who read, where that was one: how well, and what it cost


def annotate_table(
    table: TextTable,
    out: Path,
    labels: Sequence[str],
    by: str,
    read: Read,
    *,
    abstain_below: float = 0.0,
    on_event: OnEvent = ignore,
    forecast: Callable[[int], Forecast | None] = lambda texts: None,
    account: Callable[[], RemoteTeacher | None] = lambda: None,
) -> AnnotationSummary:
    """Write the rows of ``table`` with what ``read`` says of each to ``out``; resumes what was stopped.

    ``by``: names who reads, and must change with what they would answer. Rows keep their order and all their columns. A
    row whose likeliest label is less likely than ``abstain_below`` gets no label; its probabilities stay. ``forecast``
    tells beforehand what so many texts take, ``account`` what a remote teacher cost so far.
    Raises InputError where ``out`` is there, or a column that would be added.
    """
    _check_share(abstain_below)
    added = annotation_columns(labels)
    beside = WorkFolder(unfinished_folder(out))
    manifest = AnnotationManifest(table=table.content_hash, labels=tuple(labels), by=by)
    with beside.lock():
        if not may_be_written(out, beside, manifest, sum(1 for _ in table.texts())):
            check_written(out, table.columns, added)
        check_cells(out, table.columns, (row for row, _ in table.rows()), table.column_types)
        beside.claim(manifest, over_unused=True)
        read = accounted(read, account, beside.path)
        file = beside.path / ANSWERS_FILE
        estimate = _read_rest(table, file, read, on_event, forecast)
        rows = _AnnotatedRows(table, labels, by, abstain_below)
        place_table(out, beside, lambda to: write_table(to, [*table.columns, *added], rows.of(_answers(file)), table))
        remote = beside.find(REMOTE_FILE, RemoteTeacher)
        remove_folder(beside.path)
    return rows.summary(out, estimate, remote)


class _AnnotatedRows:
    """Rows with what is added to them, and what became of those that were taken."""

    def __init__(self, table: TextTable, labels: Sequence[str], by: str, abstain_below: float) -> None:
        self._table, self._labels, self._by, self._abstain_below = table, labels, by, abstain_below
        self._outcomes = Counter[str]()  # "=LABEL", or why there is none
        self._fault = ""  # the first
        self._cut = self._cut_words = 0
        self._agreement, self._num_agreements = 0.0, 0  # sum; of texts that several read

    def of(self, answers: Iterator[Annotation]) -> Iterator[dict[str, Any]]:
        """``answers``: one for each row with a text."""
        for row, text in self._table.rows():
            answer = next(answers) if text else None
            cells, outcome = self._cells(answer)
            self._outcomes[outcome] += 1
            if answer:
                self._fault = self._fault or answer.fault
                self._cut += bool(answer.cut_words)
                self._cut_words += answer.cut_words
                if answer.agreement is not None:
                    self._agreement += answer.agreement
                    self._num_agreements += 1
            yield {**row, **cells}

    def _cells(self, answer: Annotation | None) -> tuple[dict[str, Any], str]:
        """What is added to a row, and what became of it."""
        if answer is None or answer.fault:
            return {}, "blank" if answer is None else "unreadable"
        probability = max(answer.probabilities)
        is_sure = probability >= self._abstain_below
        label = self._labels[answer.probabilities.index(probability)] if is_sure else None
        cells = {LABEL: label, PROBABILITY: probability, AGREEMENT: answer.agreement, BY: self._by}
        cells |= {f"p_{name}": value for name, value in zip(self._labels, answer.probabilities, strict=True)}
        return cells, f"={label}" if label else "abstained"

    def summary(self, out: Path, estimate: Forecast | None, remote: RemoteTeacher | None) -> AnnotationSummary:
        return AnnotationSummary(
            out=str(out),
            by=self._by,
            rows=self._outcomes.total(),
            labelled={label: self._outcomes[f"={label}"] for label in self._labels},
            abstained=self._outcomes["abstained"],
            blank=self._outcomes["blank"],
            unreadable=self._outcomes["unreadable"],
            why_unreadable=self._fault,
            cut=self._cut,
            cut_words=self._cut_words,
            agreement=round(self._agreement / self._num_agreements, 4) if self._num_agreements else None,
            warnings=self._table.warnings,
            forecast=estimate,
            remote_teacher=remote,
        )


def _check_share(abstain_below: float) -> None:
    if not 0 <= abstain_below <= 1:
        raise InputError(f"--abstain-below is a probability, from 0 to 1; got {abstain_below}.")


def check_annotation(table: TextTable, out: Path, labels: Sequence[str], abstain_below: float) -> None:
    """Raise InputError where ``table`` cannot be annotated into ``out``, before anybody is asked."""
    _check_share(abstain_below)
    check_written(out, table.columns, annotation_columns(labels))
    check_cells(out, table.columns, (row for row, _ in table.rows()), table.column_types)
    unfinished_folder(out)


def texts_left(table: TextTable, out: Path) -> int:
    """How many texts of ``table`` have no answer yet: neither in ``out`` nor, of a call that was stopped, beside it."""
    if out.exists():
        return 0
    return sum(1 for _ in table.texts()) - num_lines(unfinished_folder(out) / ANSWERS_FILE)


def foretell_annotation(
    reader: NamedReader,
    table: TextTable | None,
    texts: int,
    on_event: OnEvent,
    *,
    tested: int = 0,
    writes: int = 0,
    anew: bool = False,
    complete: Callable[[Forecast], Forecast] = lambda estimate: estimate,
) -> Forecast | None:
    """Forecast what it takes to have ``texts`` texts of a table read, and tell; None for who reads without an engine.

    ``tested``: test texts that are read besides. ``writes``: texts of each class that a remote teacher writes, where it
    can. ``complete``: see `forecast.foretell`.
    """
    teacher, sample_texts = reader.teacher, list(islice(table.texts(), SAMPLE)) if table else []
    drawn = writes if reader.draw else 0
    if reader.forecast and texts + tested + drawn:  # it takes no measuring of this machine
        estimate = complete(reader.forecast(sample_texts, {"generate": drawn, "annotate": texts, "evaluate": tested}))
        on_event(Event(stage="forecast", message=str(estimate)))
        return estimate
    sample = [Example(text=text, label=reader.task.label_names[0]) for text in sample_texts]
    if teacher is None or not (texts + tested and sample):
        return None
    model = ResolvedModel(path=teacher.model_path, name="", revision=teacher.model_revision)
    forms = [member.form(PromptFormat()) for member in teacher.readers if member.adapter]
    counts = TokenCounts(teacher.task, sample, teacher.settings, teacher.model_path)
    work = [
        msgspec.structs.replace(counts.committee(count, forms, teacher.shots, teacher.chat), stage=stage)
        for stage, count in {"annotate": texts, "evaluate": tested}.items()
        if count
    ]
    return foretell(model, lambda _: work, on_event, anew=anew, complete=complete)


def _read_rest(
    table: TextTable, file: Path, read: Read, on_event: OnEvent, forecast: Callable[[int], Forecast | None]
) -> Forecast | None:
    """Have the texts read whose answers the file lacks."""
    done = num_lines(file)
    total = sum(1 for _ in table.texts())
    if done == total:
        return None
    estimate, began = forecast(total - done), time.perf_counter()
    for answers in read(growing_parts(islice(table.texts(), done, None))):
        append_lines(file, answers)
        done += len(answers)
        on_event(Event(stage="annotate", message="reading", done=done, total=total, unit="texts"))
    return settled(estimate, {"annotate": time.perf_counter() - began}) if estimate else None


def _answers(file: Path) -> Iterator[Annotation]:
    """One by one: there may be millions. A line that a kill cut short is not there yet."""
    if not file.exists():
        return
    decode = msgspec.json.Decoder(Annotation).decode
    with file.open("rb") as lines:
        yield from (decode(line) for line in lines if line.endswith(b"\n"))

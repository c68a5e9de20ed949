"""Annotates a table of a user's texts with label, probability, annotator, and agreement of the annotators.

Annotations are stored in parts next to the output table, so a kill loses only the parts in progress.
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
from fourshot.pipeline.distillation.annotators import Annotate, Annotation, NamedAnnotator, growing_parts
from fourshot.pipeline.events import Event, OnEvent, ignore
from fourshot.pipeline.forecasts.forecast import Forecast, make_forecast, record_actual_times
from fourshot.pipeline.forecasts.work_counts import TokenCounts
from fourshot.pipeline.remote_teacher import REMOTE_FILE, RemoteTeacher, accounted
from fourshot.pipeline.rows.held_cells import check_cells
from fourshot.pipeline.rows.text_table import TextTable
from fourshot.pipeline.rows.unfinished import ANSWERS_FILE, may_be_written, num_lines, place_table, unfinished_folder
from fourshot.pipeline.rows.written_table import check_written, write_table
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.task import Example
from fourshot.pipeline.work_folder import MANIFEST_FILE, Manifest, WorkFolder

SAMPLE = 100  # texts on whose length a forecast is based


class AnnotationManifest(Manifest, frozen=True, kw_only=True):
    """Identity of the annotations stored next to an unfinished table."""

    table: str  # content hash
    labels: tuple[str, ...]
    by: str
    encoding: str | None = None  # that was named for the table; None: begun by a version that did not store it


class AnnotationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Result of annotating a table."""

    out: str
    by: str
    rows: int
    labelled: dict[str, int]  # number of rows by label
    abstained: int = 0  # rows below the required confidence
    blank: int = 0  # rows without a text
    unreadable: int = 0  # rows whose text was refused
    why_unreadable: str = ""  # the reason for the first of these
    cut: int = 0  # rows whose text was truncated
    cut_words: int = 0  # words of these rows that were not read
    agreement: float | None = None  # mean over texts with several annotators
    warnings: tuple[str, ...] = ()  # from reading the table
    forecast: Forecast | None = None  # of this call, with the actual time
    remote_teacher: RemoteTeacher | None = None  # if it annotated: its accuracy and cost


def annotate_table(
    table: TextTable,
    out: Path,
    labels: Sequence[str],
    by: str,
    annotate: Annotate,
    *,
    abstain_below: float = 0.0,
    on_event: OnEvent = ignore,
    forecast: Callable[[int], Forecast | None] = lambda texts: None,
    account: Callable[[], RemoteTeacher | None] = lambda: None,
) -> AnnotationSummary:
    """Write the rows of ``table`` with the annotations by ``annotate`` to ``out``; resume an interrupted call.

    ``by``: name of the annotator, which must change whenever its predictions would. Rows keep their order and all their
    columns. A row whose most likely label has a probability below ``abstain_below`` gets no label, but keeps its
    probabilities. ``forecast`` returns the forecast for a number of texts, and ``account`` the cost of a remote teacher
    so far. Raises InputError if ``out`` exists, or if ``table`` already has one of the added columns.
    """
    _check_share(abstain_below)
    added = annotation_columns(labels)
    beside = WorkFolder(unfinished_folder(out))
    named = table.settings.encoding
    manifest = AnnotationManifest(table=table.content_hash, labels=tuple(labels), by=by, encoding=named)
    with beside.lock():
        if (begun := beside.find(MANIFEST_FILE, AnnotationManifest)) and begun.encoding is None:
            manifest = msgspec.structs.replace(manifest, encoding=None)
        if not may_be_written(out, beside, manifest, sum(1 for _ in table.texts())):
            check_written(out, table.columns, added)
        check_cells(out, table.columns, (row for row, _ in table.rows()), table.column_types)
        beside.claim(manifest, over_unused=True)
        annotate = accounted(annotate, account, beside.path)
        file = beside.path / ANSWERS_FILE
        estimate = _annotate_rest(table, file, annotate, on_event, forecast)
        rows = _AnnotatedRows(table, labels, by, abstain_below)
        place_table(out, beside, lambda to: write_table(to, [*table.columns, *added], rows.of(_answers(file)), table))
        remote = beside.find(REMOTE_FILE, RemoteTeacher)
        remove_folder(beside.path)
    return rows.summary(out, estimate, remote)


class _AnnotatedRows:
    """Annotated rows, and the counts for their summary."""

    def __init__(self, table: TextTable, labels: Sequence[str], by: str, abstain_below: float) -> None:
        self._table, self._labels, self._by, self._abstain_below = table, labels, by, abstain_below
        self._outcomes = Counter[str]()  # "=LABEL", or why there is none
        self._fault = ""  # of the first refused text
        self._cut = self._cut_words = 0
        self._agreement, self._num_agreements = 0.0, 0  # sum and number, for texts with several annotators

    def of(self, answers: Iterator[Annotation]) -> Iterator[dict[str, Any]]:
        """Yield the rows with their added columns. ``answers``: one for each row with a text, in order.

        Raises InputError at the end if the table was changed meanwhile: its rows may not be those of the answers.
        """
        for row, text in self._table.rows():
            answer = next(answers, None) if text else None
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
        self._table.check_unchanged()

    def _cells(self, answer: Annotation | None) -> tuple[dict[str, Any], str]:
        """Return the added cells of a row, and its outcome."""
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
    """Raise InputError if ``table`` cannot be annotated into ``out``, before any text is annotated."""
    _check_share(abstain_below)
    check_written(out, table.columns, annotation_columns(labels))
    check_cells(out, table.columns, (row for row, _ in table.rows()), table.column_types)
    unfinished_folder(out)


def texts_left(table: TextTable, out: Path) -> int:
    """Return how many texts of ``table`` have no annotation yet: neither in ``out`` nor from an interrupted call."""
    if out.exists():
        return 0
    return sum(1 for _ in table.texts()) - num_lines(unfinished_folder(out) / ANSWERS_FILE)


def forecast_of_annotation(
    annotator: NamedAnnotator,
    table: TextTable | None,
    texts: int,
    on_event: OnEvent,
    *,
    tested: int = 0,
    writes: int = 0,
    anew: bool = False,
    complete: Callable[[Forecast], Forecast] = lambda estimate: estimate,
) -> Forecast | None:
    """Forecast the annotation of ``texts`` texts of a table, and report it.

    Returns None if nothing is left, or if the annotator needs no engine and is not remote. ``tested``: number of test
    texts that are annotated too. ``writes``: texts per class that a remote teacher generates, if it can. ``complete``:
    see `forecast.make_forecast`.
    """
    teacher, sample_texts = annotator.teacher, list(islice(table.texts(), SAMPLE)) if table else []
    drawn = writes if annotator.draw else 0
    if annotator.forecast and texts + tested + drawn:  # remote, so the speed of this machine is not needed
        estimate = complete(
            annotator.forecast(sample_texts, {"generate": drawn, "annotate": texts, "evaluate": tested})
        )
        on_event(Event(stage="forecast", message=str(estimate)))
        return estimate
    sample = [Example(text=text, label=annotator.task.label_names[0]) for text in sample_texts]
    if teacher is None or not (texts + tested and sample):
        return None
    model = ResolvedModel(path=teacher.model_path, name="", revision=teacher.model_revision)
    prompts = [
        (member.form(PromptFormat()), [teacher.shots[index] for index in member.shown])
        for member in teacher.annotators
        if member.adapter
    ]
    counts = TokenCounts(teacher.task, sample, teacher.settings, teacher.model_path)
    work = [
        msgspec.structs.replace(counts.committee(count, prompts, teacher.shots, teacher.chat), stage=stage)
        for stage, count in {"annotate": texts, "evaluate": tested}.items()
        if count
    ]
    return make_forecast(model, lambda _: work, on_event, anew=anew, complete=complete)


def _annotate_rest(
    table: TextTable, file: Path, annotate: Annotate, on_event: OnEvent, forecast: Callable[[int], Forecast | None]
) -> Forecast | None:
    """Annotate the texts that ``file`` lacks; return the forecast with the actual time, if there is one."""
    done = num_lines(file)
    total = sum(1 for _ in table.texts())
    if done == total:
        return None
    estimate, began = forecast(total - done), time.perf_counter()
    for answers in annotate(growing_parts(islice(table.texts(), done, None))):
        append_lines(file, answers)
        done += len(answers)
        on_event(Event(stage="annotate", message="reading", done=done, total=total, unit="texts"))
    return record_actual_times(estimate, {"annotate": time.perf_counter() - began}) if estimate else None


def _answers(file: Path) -> Iterator[Annotation]:
    """Yield the annotations one by one, because there may be millions. An incomplete last line is ignored."""
    if not file.exists():
        return
    decode = msgspec.json.Decoder(Annotation).decode
    with file.open("rb") as lines:
        yield from (decode(line) for line in lines if line.endswith(b"\n"))

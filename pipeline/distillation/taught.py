"""Training texts of a student: a user's texts with a teacher's labels, and generated texts, without unusable ones."""

import shutil
import zlib
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.measuring import Evaluation, evaluation_of
from fourshot.pipeline.cells.run_folder import GENERATED_FILE
from fourshot.pipeline.distillation.annotated_tables import (
    LABEL,
    annotated_file,
    read_annotated,
    row_target,
)
from fourshot.pipeline.distillation.annotating import annotate_table
from fourshot.pipeline.distillation.annotators import Annotate, NamedAnnotator, parts_of
from fourshot.pipeline.distillation.repeats import contradicting_texts, contradiction_notes, corrections, unseen
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.faults import TaskFault, clipped, counted, error, raise_errors
from fourshot.pipeline.loop.rounds import RoundSink, finished_pairs
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.remote_teacher import REMOTE_FILE, keep_account
from fourshot.pipeline.rows.examples import normalised_text
from fourshot.pipeline.rows.fields import bare_text
from fourshot.pipeline.rows.review_table import check_alone
from fourshot.pipeline.rows.text_table import TextTable
from fourshot.pipeline.rows.unfinished import UNFINISHED, unfinished_folder
from fourshot.pipeline.synthesis.neardup import NearDuplicates
from fourshot.pipeline.synthesis.types import TextPairs
from fourshot.pipeline.tables.files import table_warnings
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.training.students.examples import TaughtExample

Annotated = list[TaughtExample]  # real are those with a label that a person put into the table


def annotated_texts(request: LabelDistillation, by: str, annotate: Annotate) -> tuple[Annotated, list[str]]:
    """Return the user's texts with the labels of the teacher ``by``, or a person's corrections, and notes.

    The annotated table is written unless it exists. Raises InputError if no text has a label, unless the teacher also
    generates texts.
    """
    unlabelled, labels = request.unlabelled, request.task.label_names
    if unlabelled is None:
        return [], []
    out, notes = annotated_file(unlabelled.path, request.folder), list(unlabelled.warnings)
    check_alone(out, UNFINISHED)
    if out.exists():  # it is complete, because it is written atomically; a person may also have put it back
        shutil.rmtree(unfinished_folder(out), ignore_errors=True)  # left if a kill came before its removal
    else:
        summary = annotate_table(unlabelled, out, labels, by, annotate, on_event=request.on_event)
        if summary.unreadable:
            notes.append(
                f"{counted(summary.unreadable, 'text')} could not be annotated; reason for the first: "
                f"{summary.why_unreadable}"
            )
    labelled, told_of_labels = labelled_texts(unlabelled, out, labels)
    if not (labelled or request.writes):
        raise InputError(
            f"{out}: no text has a label, so a student would learn the shots alone. Add labels, or remove the file "
            "to annotate again."
        )
    return labelled, [*notes, *told_of_labels]


def labelled_texts(unlabelled: TextTable, out: Path, labels: Sequence[str]) -> tuple[Annotated, list[str]]:
    """Return the labelled texts of the annotated table ``out``, and notes on how it differs from the teacher's.

    Raises InputError that names every invalid row.
    """
    table = read_annotated(out, [*(unlabelled.fields or unlabelled.text_columns), LABEL])
    texts, labelled, faults = list[str](), Annotated(), list[TaskFault]()
    for line, row in table.rows.items():
        try:
            texts.append(unlabelled.text_of(row))
            target = row_target(row, labels)
            if texts[-1] and target:
                labelled.append(TaughtExample(text=texts[-1], probabilities=target[0], is_real=target[1]))
        except InputError as failure:
            faults.append(error(f"{out}:{line}", str(failure)))
    raise_errors(faults)
    notes = [str(warning) for warning in table_warnings(table)]
    notes += corrections(unlabelled.path.name, unlabelled.texts(), out.name, filter(None, texts))
    if num_corrected := sum(example.is_real for example in labelled):
        notes.append(f"{counted(num_corrected, 'label')} in {out.name} not from the teacher: learnt alone, as your own")
    if blank := texts.count(""):
        notes.append(f"left out, because the text is blank: {counted(blank, 'row')}")
    if missing := len(texts) - blank - len(labelled):
        notes.append(
            f"without a label in {out.name}: {counted(missing, 'text')}, refused by the teacher or removed there"
        )
    return labelled, notes


class Lesson(NamedTuple):
    """A student's training texts besides the shots."""

    annotated: Annotated
    written: Annotated
    num_annotated: int  # those of ``annotated`` with the required confidence
    num_written: int  # those of ``written``
    notes: list[str]  # for example on texts that are left out


def lesson_of(
    request: LabelDistillation,
    annotated: Annotated,
    pairs: TextPairs,
    shots: Sequence[Example],
    test: Sequence[Example],
) -> Lesson:
    """Return the usable texts of the user, and the requested number of the teacher's generated ``pairs``."""
    taught, left_out = learnable(annotated, shots, test)
    kept_pairs, others_left_out = learnable_pairs(pairs, shots, taught, test)
    written = written_texts(kept_pairs, request.task, request.generate)
    missing = missing_texts(written, request.generate * len(request.task.labels))
    (num_taught, num_written), unsure = count_confident([taught, written], request.student_settings.min_confidence)
    near = _near_test(request, taught, test)
    return Lesson(taught, written, num_taught, num_written, [*left_out, *others_left_out, *missing, *unsure, *near])


def _near_test(request: LabelDistillation, learnt: Annotated, test: Sequence[Example]) -> list[str]:
    """Return a note on texts that nearly repeat a test text. They are used, because they are the user's."""
    tested = NearDuplicates(request.settings.filter.near_test)
    for example in test:
        tested.add(bare_text(request.task, example.text))
    near = [example for example in learnt if tested.find(bare_text(request.task, example.text))] if test else []
    if not near:
        return []
    first = clipped(" ".join(near[0].text.split()), 60)
    return [
        f"learnt, although nearly identical to a test text: {counted(len(near), 'text')}, such as {first!r}; scores "
        "may be too high for new texts"
    ]


def expected_lesson(
    request: LabelDistillation, pairs: TextPairs, shots: Sequence[Example], test: Sequence[Example]
) -> Lesson:
    """Return the expected training texts, for a forecast.

    Texts that are not annotated yet get an arbitrary label. If the teacher has generated no texts (``pairs``) yet,
    shots stand for them.
    """
    table, labels = request.unlabelled, request.task.label_names
    any_label = tuple(float(name == labels[0]) for name in labels)
    annotated = Annotated()
    if table and (out := annotated_file(table.path, request.folder)).exists():
        annotated, _ = labelled_texts(table, out, labels)
    elif table:
        annotated = [TaughtExample(text=text, probabilities=any_label) for text in table.texts()]
    lesson = lesson_of(request, annotated, pairs, shots, test)
    if pairs or not request.writes:
        return lesson
    written = islice(cycle(shots), request.generate * len(labels))
    return lesson._replace(written=[TaughtExample(text=shot.text, probabilities=any_label) for shot in written])


def learnable(annotated: Annotated, shots: Sequence[Example], test: Sequence[Example]) -> tuple[Annotated, list[str]]:
    """Return ``annotated`` without duplicates, shots and test texts, and notes with their numbers.

    If a person gave a text different labels, none of them is used, as in training data.
    """
    shot_keys = {normalised_text(shot.text) for shot in shots}
    doubtful = contradicting_texts((example.text, example.probabilities) for example in annotated if example.is_real)
    certain = [example for example in annotated if normalised_text(example.text) not in doubtful]
    others = [example for example in certain if normalised_text(example.text) not in shot_keys]
    usable, measured, repeated = unseen(others, attrgetter("text"), (), [x.text for x in test], attrgetter("is_real"))
    notes = [*contradiction_notes(doubtful, "text", "none is learnt"), *_left_out(measured, repeated, "text")]
    num_shots = len(certain) - len(others)
    return usable, notes + ([f"already learnt as shots: {counted(num_shots, 'text')}"] if num_shots else [])


def learnable_pairs(
    pairs: TextPairs, shots: Sequence[Example], annotated: Annotated, test: Sequence[Example]
) -> tuple[TextPairs, list[str]]:
    """Return the kept generated texts without shots, annotated texts and test texts, and notes with their numbers.

    The check is needed because the texts may be of a run that knew neither the current test texts nor the annotated
    ones.
    """
    earlier = [*(example.text for example in shots), *(example.text for example in annotated)]
    kept_pairs = [pair for pair in pairs if pair[1].kept]
    usable, measured, repeated = unseen(kept_pairs, lambda pair: pair[0].text, earlier, [e.text for e in test])
    return usable, _left_out(measured, repeated, "written text")


def _left_out(measured: int, repeated: int, noun: str) -> list[str]:
    notes = [f"not learnt, because used for testing: {counted(measured, noun)}"] if measured else []
    return notes + ([f"not learnt, because duplicated: {counted(repeated, noun)}"] if repeated else [])


def count_confident(parts: Sequence[Annotated], least: float) -> tuple[list[int], list[str]]:
    """Return, for each part, how many texts have a teacher's confidence of at least ``least``; and notes on others."""
    learnt = [sum(max(example.probabilities) >= least for example in part) for part in parts]
    unsure = sum(map(len, parts)) - sum(learnt)
    return learnt, [f"{counted(unsure, 'text')} not learnt: the teacher is less sure than {least:g}"] if unsure else []


def kept_shots(stored_shots: Sequence[Example], current_shots: Sequence[Example]) -> list[str]:
    """Return a note if the folder was started with other shots than the data would give now."""
    if value_hash(tuple(stored_shots)) == value_hash(tuple(current_shots)):
        return []
    return ["the shots are those that the folder was started with; for those of the current data, give another --out"]


def drawn_texts(request: LabelDistillation, by: NamedAnnotator, data: TaskData, shots: Sequence[Example]) -> TextPairs:
    """Return the texts that a remote teacher generates, with their verdicts.

    The cost is stored in the folder. After a kill, it is determined from the stored responses.
    """
    assert by.draw
    drawn = WorkFolder(request.teacher_folder)
    if not (drawn.has(GENERATED_FILE) and (request.folder / REMOTE_FILE).exists()):
        drawn.path.mkdir(parents=True, exist_ok=True)
        sink_of = partial(
            RoundSink,
            drawn,
            by.task,
            shots,
            test_texts=lambda: data.test_texts,
            on_event=request.on_event,
            done_file=GENERATED_FILE,
        )
        by.draw(request.log, request.on_event, request.settings, sink_of)
        keep_account(by.account, request.folder)
    return finished_pairs(drawn)


def written_texts(pairs: TextPairs, task: Task, per_class: int) -> Annotated:
    """Return up to ``per_class`` kept generated texts per class, with the teacher's own label probabilities."""
    counts = dict.fromkeys(task.label_names, 0)
    written: Annotated = []
    for candidate, verdict in pairs:
        label = verdict.predicted or candidate.label
        if verdict.kept and counts[label] < per_class:
            counts[label] += 1
            probabilities = verdict.probabilities or {label: 1.0}
            total = sum(probabilities.values())
            shares = tuple(probabilities.get(name, 0.0) / total for name in task.label_names)
            written.append(TaughtExample(text=candidate.text, probabilities=shares))
    return written


def missing_texts(written: Annotated, total: int) -> list[str]:
    """Return a note if the teacher generated fewer usable texts than ``total``."""
    return [f"the teacher wrote {len(written)} usable texts of {total}"] if len(written) < total else []


def teacher_measured(annotate: Annotate, task: Task, test: Sequence[Example], on_event: OnEvent) -> Evaluation:
    """Evaluate the teacher on the test texts. For a text that it refuses, a pseudo-random label counts."""
    import time

    rows: list[tuple[float, ...]] = []
    began_s = time.perf_counter()
    for answers in annotate(parts_of([example.text for example in test])):
        for answer in answers:
            text = test[len(rows)].text
            rows.append(answer.probabilities or _at_random(text, len(task.labels)))
        message = "the teacher on the test texts"
        on_event(Event(stage="evaluate", message=message, done=len(rows), total=len(test), unit="texts"))
    return evaluation_of(np.array(rows), task, test, seconds=time.perf_counter() - began_s)


def _at_random(text: str, num_labels: int) -> tuple[float, ...]:
    """Return equal probabilities with a minimal preference for one label, which the hash of the text determines."""
    chosen = zlib.crc32(text.encode()) % num_labels
    return tuple(1 / num_labels + (1e-9 if index == chosen else 0.0) for index in range(num_labels))

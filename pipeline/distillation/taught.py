"""What a student learns: a user's texts as a teacher read them, texts that it wrote, and what of both is left out."""

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
    annotated_probabilities,
    is_own,
    read_annotated,
)
from fourshot.pipeline.distillation.annotating import annotate_table
from fourshot.pipeline.distillation.readers import NamedReader, Read, parts_of
from fourshot.pipeline.distillation.request import LabelDistillation
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.faults import TaskFault, clipped, counted, error, raise_errors
from fourshot.pipeline.loop.rounds import RoundSink, finished_pairs
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.remote_teacher import REMOTE_FILE, keep_account
from fourshot.pipeline.rows.examples import normalised_text
from fourshot.pipeline.rows.fields import bare_text
from fourshot.pipeline.rows.repeats import torn, torn_notes, unseen
from fourshot.pipeline.rows.review_table import check_alone, corrections
from fourshot.pipeline.rows.text_table import TextTable
from fourshot.pipeline.rows.unfinished import UNFINISHED, unfinished_folder
from fourshot.pipeline.synthesis.neardup import NearDuplicates
from fourshot.pipeline.synthesis.types import TextPairs
from fourshot.pipeline.tables.files import table_warnings
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.task_data import TaskData
from fourshot.pipeline.work_folder import WorkFolder
from fourshot.training.students.examples import TaughtExample

Annotated = list[TaughtExample]  # of which each is real whose label a person put into the table


def annotated_texts(request: LabelDistillation, by: str, read: Read) -> tuple[Annotated, list[str]]:
    """The user's texts with what the teacher ``by`` says, or what a person made of that; and what is to be told.

    Raises InputError where a student would learn nothing of that.
    """
    unlabelled, labels = request.unlabelled, request.task.label_names
    if unlabelled is None:
        return [], []
    out, notes = annotated_file(unlabelled.path, request.folder), list(unlabelled.warnings)
    check_alone(out, UNFINISHED)
    if out.exists():  # it appeared whole, and a person may have put it back
        shutil.rmtree(unfinished_folder(out), ignore_errors=True)  # a kill came before it was taken away
    else:
        summary = annotate_table(unlabelled, out, labels, by, read, on_event=request.on_event)
        if summary.unreadable:
            notes.append(
                f"{counted(summary.unreadable, 'text')} could not be read; of the first: {summary.why_unreadable}"
            )
    labelled, told_of_labels = labelled_texts(unlabelled, out, labels)
    if not (labelled or request.writes):
        raise InputError(
            f"{out}: no text has a label, so a student would learn the shots alone. Put labels in, or remove the file "
            "to annotate anew."
        )
    return labelled, [*notes, *told_of_labels]


def labelled_texts(unlabelled: TextTable, out: Path, labels: Sequence[str]) -> tuple[Annotated, list[str]]:
    """What the annotated table ``out`` says of each text, and how it differs from what the teacher was given and said.

    Raises InputError with all that cannot be read there.
    """
    table = read_annotated(out, [*(unlabelled.fields or unlabelled.text_columns), LABEL])
    texts, labelled, faults = list[str](), Annotated(), list[TaskFault]()
    for line, row in table.rows.items():
        try:
            texts.append(unlabelled.text_of(row))
            probabilities = annotated_probabilities(row, labels)
            if texts[-1] and probabilities is not None:
                own = is_own(row, labels)
                labelled.append(TaughtExample(text=texts[-1], probabilities=probabilities, is_real=own))
        except InputError as failure:
            faults.append(error(f"{out}:{line}", str(failure)))
    raise_errors(faults)
    notes = [str(warning) for warning in table_warnings(table)]
    notes += corrections(unlabelled.path.name, unlabelled.texts(), out.name, filter(None, texts))
    if num_corrected := sum(example.is_real for example in labelled):
        notes.append(f"{counted(num_corrected, 'label')} in {out.name} not of the teacher: learnt alone, as a person's")
    if blank := texts.count(""):
        notes.append(f"left out, for want of a text: {counted(blank, 'row')}")
    if missing := len(texts) - blank - len(labelled):
        notes.append(
            f"without a label in {out.name}: {counted(missing, 'text')}, refused by the teacher or removed there"
        )
    return labelled, notes


class Lesson(NamedTuple):
    """What a student learns beside the shots."""

    annotated: Annotated
    written: Annotated
    num_annotated: int  # of these, those of which the teacher is sure enough
    num_written: int
    notes: list[str]  # what is left out


def lesson_of(
    request: LabelDistillation,
    annotated: Annotated,
    pairs: TextPairs,
    shots: Sequence[Example],
    test: Sequence[Example],
) -> Lesson:
    """What can be learnt of the user's texts, and of the ``pairs`` that the teacher wrote as many as were wanted."""
    taught, left_out = learnable(annotated, shots, test)
    kept_pairs, others_left_out = learnable_pairs(pairs, shots, taught, test)
    written = written_texts(kept_pairs, request.task, request.generate)
    missing = missing_texts(written, request.generate * len(request.task.labels))
    (num_taught, num_written), unsure = sure_enough([taught, written], request.student_settings.min_confidence)
    near = _near_test(request, taught, test)
    return Lesson(taught, written, num_taught, num_written, [*left_out, *others_left_out, *missing, *unsure, *near])


def _near_test(request: LabelDistillation, learnt: Annotated, test: Sequence[Example]) -> list[str]:
    """What is to be told of texts that nearly repeat one that is measured on: they are the user's, and are learnt."""
    tested = NearDuplicates(request.settings.filter.near_test)
    for example in test:
        tested.add(bare_text(request.task, example.text))
    near = [example for example in learnt if tested.find(bare_text(request.task, example.text))] if test else []
    if not near:
        return []
    first = clipped(" ".join(near[0].text.split()), 60)
    return [
        f"learnt, although nearly a test text: {counted(len(near), 'text')}, such as {first!r}; scores on the test "
        "texts may be too high for others"
    ]


def expected_lesson(
    request: LabelDistillation, pairs: TextPairs, shots: Sequence[Example], test: Sequence[Example]
) -> Lesson:
    """What will be learnt, as far as the teacher said and wrote it (``pairs``). A text that it did not read yet has any
    label; one that it did not write yet is a shot.
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
    """Without texts that stand there twice, are shots, or are what is measured on; and how many these were.

    Where a person gave a text different labels, none of them is learnt, as of training data.
    """
    shot_keys = {normalised_text(shot.text) for shot in shots}
    doubtful = torn((example.text, example.probabilities) for example in annotated if example.is_real)
    certain = [example for example in annotated if normalised_text(example.text) not in doubtful]
    others = [example for example in certain if normalised_text(example.text) not in shot_keys]
    usable, measured, repeated = unseen(others, attrgetter("text"), (), [x.text for x in test], attrgetter("is_real"))
    notes = [*torn_notes(doubtful, "text", "none is learnt"), *_left_out(measured, repeated, "text")]
    num_shots = len(certain) - len(others)
    return usable, notes + ([f"learnt as shots already: {counted(num_shots, 'text')}"] if num_shots else [])


def learnable_pairs(
    pairs: TextPairs, shots: Sequence[Example], annotated: Annotated, test: Sequence[Example]
) -> tuple[TextPairs, list[str]]:
    """Kept texts that the teacher wrote, without those that are among the others. A run may have written them that knew
    neither the test texts nor the annotated ones of now.
    """
    earlier = [*(example.text for example in shots), *(example.text for example in annotated)]
    kept_pairs = [pair for pair in pairs if pair[1].kept]
    usable, measured, repeated = unseen(kept_pairs, lambda pair: pair[0].text, earlier, [e.text for e in test])
    return usable, _left_out(measured, repeated, "written text")


def _left_out(measured: int, repeated: int, noun: str) -> list[str]:
    notes = [f"not learnt, because it is measured on: {counted(measured, noun)}"] if measured else []
    return notes + ([f"not learnt, because repeated: {counted(repeated, noun)}"] if repeated else [])


def sure_enough(parts: Sequence[Annotated], least: float) -> tuple[list[int], list[str]]:
    """Of each part, how many texts a student learns that leaves out those of which the teacher is less sure than
    ``least``; and what is to be told of the others.
    """
    learnt = [sum(max(example.probabilities) >= least for example in part) for part in parts]
    unsure = sum(map(len, parts)) - sum(learnt)
    return learnt, [f"{counted(unsure, 'text')} not learnt: the teacher is less sure than {least:g}"] if unsure else []


def kept_shots(stored_shots: Sequence[Example], current_shots: Sequence[Example]) -> list[str]:
    """What is to be told where the folder was begun with other shots than the data would give now."""
    if value_hash(tuple(stored_shots)) == value_hash(tuple(current_shots)):
        return []
    return ["the shots are those that the folder was begun with; for those of the data as it is now give another --out"]


def drawn_texts(request: LabelDistillation, by: NamedReader, data: TaskData, shots: Sequence[Example]) -> TextPairs:
    """The texts that a remote teacher writes, with what became of them.

    What that cost is written down in the folder; where a kill came before, from the answers that are kept.
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
    """Up to ``per_class`` kept texts of each class that the teacher wrote, as it reads them."""
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
    """What is to be told where the teacher wrote fewer texts than it was to."""
    return [f"the teacher wrote {len(written)} of {total} texts that can be learnt"] if len(written) < total else []


def teacher_measured(read: Read, task: Task, test: Sequence[Example], on_event: OnEvent) -> Evaluation:
    """The teacher on the test texts. One that it refuses to read counts as answered at random."""
    import time

    rows: list[tuple[float, ...]] = []
    began_s = time.perf_counter()
    for answers in read(parts_of([example.text for example in test])):
        for answer in answers:
            text = test[len(rows)].text
            rows.append(answer.probabilities or _at_random(text, len(task.labels)))
        message = "the teacher on the test texts"
        on_event(Event(stage="evaluate", message=message, done=len(rows), total=len(test), unit="texts"))
    return evaluation_of(np.array(rows), task, test, seconds=time.perf_counter() - began_s)


def _at_random(text: str, num_labels: int) -> tuple[float, ...]:
    """All labels equally likely, and one a hair likelier, which depends on the text: not always the first."""
    chosen = zlib.crc32(text.encode()) % num_labels
    return tuple(1 / num_labels + (1e-9 if index == chosen else 0.0) for index in range(num_labels))

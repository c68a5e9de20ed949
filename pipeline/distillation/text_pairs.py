"""Training pairs of a text generation student: a user's inputs with a teacher's targets, and generated pairs."""

import unicodedata
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.distillation.annotated_tables import BY, read_annotated
from fourshot.pipeline.distillation.repeats import contradicting_texts, contradiction_notes, corrections, unseen
from fourshot.pipeline.faults import counted
from fourshot.pipeline.rows.examples import normalised_text
from fourshot.pipeline.rows.labels.cells import read_text_cell
from fourshot.pipeline.rows.review_table import check_alone, guard, unguard
from fourshot.pipeline.rows.written_table import check_written, write_table
from fourshot.pipeline.runs.stages.write import WrittenAnswer
from fourshot.pipeline.tables.files import table_warnings
from fourshot.pipeline.tasks.generation import GenerationTask, Pair, between
from fourshot.pipeline.tasks.pairs import InputRows, input_of

TARGET = "annotated_target"
ADDED = [TARGET, BY]  # columns
GUARDED = (".csv", ".tsv")  # tables whose cells a spreadsheet interprets as if they were typed


def write_annotated(source: InputRows, out: Path, written: Iterable[WrittenAnswer], by: str) -> None:
    """Write the user's rows with the teacher's targets; empty for blank inputs and incomplete or refused ones.

    Targets are escaped so that no spreadsheet interprets them as formulas, because unlike the user's cells, nobody has
    seen them yet. Raises InputError if the table already has one of the added columns.
    """
    check_written(out, source.columns, ADDED)
    answers = iter(written)
    rows = []
    for row, text in zip(source.rows, source.inputs, strict=True):
        answer = next(answers) if text else None
        target = answer.text if answer and answer.is_whole and not answer.fault else ""
        target = guard(target) if out.suffix.lower() in GUARDED else target
        rows.append({**row, TARGET: target or None, BY: by if target else None})
    write_table(out, [*source.columns, *ADDED], rows, texts=source.input_columns)


def annotated_pairs(source: InputRows, out: Path, written: Sequence[WrittenAnswer]) -> tuple[list[Pair], list[str]]:
    """Return the pairs of the annotated table ``out``, which a person may have corrected, and notes.

    ``written``: the teacher's targets, one for each input that is not blank. Raises InputError if a target is not text.
    """
    check_alone(out)
    table = read_annotated(out, [*source.input_columns, TARGET])
    rows = table.rows.values()
    read_target = unguard if out.suffix.lower() in GUARDED else str
    try:
        pairs = [
            Pair(
                input=input_of(row, source.input_columns),
                target=read_target(read_text_cell(row.get(TARGET)) or "").strip(),
            )
            for row in rows
        ]
    except TypeError as error:
        raise InputError(f"{out}: {error}. Write texts there, or leave the cell of {TARGET} empty.") from None
    notes = [*source.notes, *map(str, table_warnings(table))]
    if blank := sum(not pair.input for pair in pairs):
        notes.append(f"{counted(blank, 'row')} left out: no input")
    pairs = [pair for pair in pairs if pair.input]
    source_inputs = (text for text in source.inputs if text)
    notes += corrections(source.path.name, source_inputs, out.name, [pair.input for pair in pairs])
    inputs = filter(None, source.inputs)
    by_teacher = {_pair_key(text, answer.text) for text, answer in zip(inputs, written, strict=True)}
    pairs = [
        msgspec.structs.replace(
            pair, is_corrected=bool(pair.target) and _pair_key(pair.input, pair.target) not in by_teacher
        )
        for pair in pairs
    ]
    if num_corrected := sum(pair.is_corrected for pair in pairs):
        notes.append(f"{counted(num_corrected, 'target')} in {out.name} not from the teacher: learnt as your own")
    if without := sum(not pair.target for pair in pairs):
        reason = "the teacher did not finish it, refused the input, or it was removed there"
        notes.append(f"{counted(without, 'input')} left out, without a target in {out.name}: {reason}")
    return [pair for pair in pairs if pair.target], notes


def _pair_key(text: str, target: str) -> tuple[str, str]:
    """Return a key by which equal pairs are found. Spreadsheets may change whitespace; case counts in targets only."""
    return normalised_text(text), unicodedata.normalize("NFC", " ".join(target.split()))


def written_pairs(
    task: GenerationTask,
    written: Sequence[WrittenAnswer],
    count: int,
    earlier_pairs: Sequence[Pair],
    test: Sequence[Pair],
) -> tuple[list[Pair], list[str]]:
    """Return the first ``count`` usable pairs that a teacher generated, and notes.

    Inputs of ``earlier_pairs`` and test inputs are left out. A text without a target, and an incomplete one, is
    malformed.
    """
    pairs = []
    for answer in written:
        text, sign, target = answer.text.partition(between(task))
        if answer.is_whole and sign and text.strip() and target.strip() and between(task) not in target:
            pairs.append(Pair(input=text.strip(), target=target.strip()))
    notes = (
        [f"{len(written) - len(pairs)} of {len(written)} pairs that the teacher wrote are malformed"] if written else []
    )
    usable_pairs, again = learnable_pairs(pairs, earlier_pairs, test, "written input")
    notes += again
    if written and len(usable_pairs) < count:
        notes.append(f"the teacher wrote {len(usable_pairs)} of {count} pairs")
    return usable_pairs[:count], notes


def learnable_pairs(
    pairs: Sequence[Pair], real: Sequence[Pair], test: Sequence[Pair], noun: str
) -> tuple[list[Pair], list[str]]:
    """Return ``pairs`` without duplicates and inputs of ``test`` or ``real``, and notes with their numbers.

    If a person gave an input different targets, the first one is used.
    """
    earlier, tested = ([pair.input for pair in known] for known in (real, test))
    usable_pairs, measured, repeated = unseen(pairs, attrgetter("input"), earlier, tested, attrgetter("is_corrected"))
    several = contradicting_texts(
        (pair.input, _pair_key(pair.input, pair.target)) for pair in pairs if pair.is_corrected
    )
    notes = contradiction_notes(several, noun, "the first is learnt")
    notes += [f"{counted(measured, noun)} left out: also in the test split"] if measured else []
    notes += [f"{counted(repeated, noun)} left out: duplicates of others or of real ones"] if repeated else []
    return usable_pairs, notes

"""A person's review of a run's texts: which texts they are shown, and the consequences of their answers.

review.csv and ask.csv in a run folder are for the person to edit; review.json and ask.json have their original state.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.run_folder import SHOTS_FILE, RunFolder
from fourshot.pipeline.cells.self_training import SELF_TRAINING_FILES, SelfTrainingLabels, with_self_training_labels
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.faults import MOST_NAMED, counted, shorten
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.rows.review_table import ReviewAnswer, ReviewRow, check_alone, read_review, write_review
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import TextPairs, Verdict
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import MANIFEST_FILE

REVIEW, ASK = "review", "ask"  # the tables, named after their files
DOUBTFUL = ("label_disagrees", "low_confidence")  # reasons for which annotators reject a well-formed text


class Decisions(msgspec.Struct, frozen=True, kw_only=True):
    """Differences between a table and its original state; empty if a person changed nothing."""

    answers: dict[str, ReviewAnswer] = {}  # by id of the text, only those that differ
    counts: dict[str, int] = {}  # "relabelled", "dropped", "kept", "labelled" -> texts
    unasked: int = 0  # rows that were relabelled and still say no under keep
    open: tuple[str, ...] = ()  # ids of rows that need a label and have none
    gone: tuple[str, ...] = ()  # labels that had kept rows, and have none now

    @property
    def content_hash(self) -> str:
        return value_hash(sorted(self.answers.items())) if self.answers else ""


def review_rows(folder: RunFolder) -> tuple[list[ReviewRow], dict[str, int]]:
    """Return the rows of a review, shots and kept or doubtful texts, and the number of other texts by reason.

    The shots come first, because all texts were generated from them. The texts follow, those that the annotators are
    least sure of first. Raises InputError if not all texts are annotated yet.
    """
    manifest = folder.manifest()
    settings = manifest.settings
    if not folder.has_texts(settings, unlabelled=bool(manifest.unlabelled)):
        raise InputError(
            f"the texts of {folder.path} are not all annotated yet, so there is nothing to review. First repeat "
            f"{folder.command}"
        )
    soft = settings.learns_soft
    asked_ids = {row.id for row in written_rows(folder, ASK)}
    rows, left_out = list[ReviewRow](), Counter[str]()
    for candidate, verdict in [*_drawn_pairs(folder, settings), *finished_pairs(folder.unlabelled)]:
        if candidate.id in asked_ids:
            left_out["asked about in ask.csv"] += 1
            continue
        if not verdict.kept and verdict.reason not in DOUBTFUL:
            left_out[verdict.reason] += 1
            continue
        read_as = verdict.predicted if soft or not candidate.label else candidate.label
        rows.append(
            ReviewRow(
                id=candidate.id,
                text=candidate.text,
                label=read_as or candidate.label,
                keep=verdict.kept,
                why=verdict.reason.replace("_", " "),
                probabilities=verdict.probabilities,
            )
        )
    rows.sort(key=lambda row: -entropy(row.probabilities))
    shots = [
        ReviewRow(id=shot_id(number), text=shot.text, label=shot.label, keep=True, why="shot")
        for number, shot in enumerate(folder.shots())
    ]
    return [*shots, *rows], dict(left_out)


def _drawn_pairs(folder: RunFolder, settings: RunSettings) -> TextPairs:
    """Return the generated texts with the verdicts that count: those by a first classifier, if it annotated them.

    If there are several such annotations, of texts before and after a review, the annotators' verdicts count.
    """
    pairs = finished_pairs(folder)
    prediction_files = sorted(folder.path.glob(SELF_TRAINING_FILES)) if settings.annotate.self_training else []
    if len(prediction_files) != 1:
        return pairs
    return with_self_training_labels(
        pairs, folder.read(prediction_files[0].name, SelfTrainingLabels), settings.generate.per_class
    )


def run_in(path: str | Path) -> RunFolder:
    """Return the run folder ``path``. Raises InputError if it is none."""
    folder = RunFolder(path)
    if missing := [name for name in (MANIFEST_FILE, SHOTS_FILE) if not folder.has(name)]:
        # It may be that of a distillation, whose annotated table a person corrects, or of a comparison.
        usable_files = [
            str(file) for file in (folder.path / "report.html", *folder.path.glob("annotated.*")) if file.is_file()
        ]
        hint = f" It contains: {', '.join(usable_files)}." if usable_files else ""
        raise InputError(f"{path} is not a run folder: it has no {missing[0]}. Give the folder of a run.{hint}")
    return folder


class ReviewSession(msgspec.Struct, frozen=True, kw_only=True):
    """State of a review: its table, and a person's decisions in it so far."""

    path: str
    rows: int
    left_out: dict[str, int] = {}  # texts that are not in the table, by reason
    is_new: bool = False
    said: Decisions = Decisions()


def open_review(folder: RunFolder, most: int = 0) -> ReviewSession:
    """Write the table of a run's texts, the first ``most`` (0: all); an existing one is only read.

    Raises InputError if there is nothing to review yet, and for a table with faults.
    """
    is_new, left_out = not has_table(folder, REVIEW), dict[str, int]()
    if is_new:
        rows, left_out = review_rows(folder)
        if most and most < len(rows):
            left_out |= {"less useful than those in it": len(rows) - most}
        write_rows(folder, REVIEW, rows[: most or None])
    return ReviewSession(
        path=str(folder.path / f"{REVIEW}.csv"),
        rows=len(written_rows(folder, REVIEW)),
        left_out=left_out,
        is_new=is_new,
        said=decisions(folder, REVIEW, folder.manifest().task),
    )


def entropy(probabilities: Mapping[str, float]) -> float:
    """Return the entropy of a distribution over labels, in nats; 0 if it is empty."""
    return -sum(p * math.log(p) for p in probabilities.values() if p > 0)


def shot_id(number: int) -> str:
    return f"shot-{number}"


def has_table(folder: RunFolder, name: str) -> bool:
    return folder.has(f"{name}.csv")


def written_rows(folder: RunFolder, name: str) -> list[ReviewRow]:
    """Return the rows of a table in their original state; none if there is no table.

    Raises InputError if only the table exists, or it was saved in another format than CSV.
    """
    check_alone(folder.path / f"{name}.csv", ".json")
    if not has_table(folder, name):
        return []
    if not folder.has(f"{name}.json"):
        raise InputError(
            f"{folder.path / name}.csv has no {name}.json beside it, which records the original table. Restore "
            "it, or remove the table to continue without it."
        )
    return folder.read(f"{name}.json", list[ReviewRow])


def write_rows(folder: RunFolder, name: str, rows: Sequence[ReviewRow]) -> None:
    """Write the original state, then the table: if the table exists, both are complete."""
    folder.write(f"{name}.json", rows)
    write_review(folder.path / f"{name}.csv", rows, task=folder.manifest().task)


def answers_in(folder: RunFolder, name: str, task: Task) -> dict[str, ReviewAnswer]:
    """Return a person's answers by id. Raises InputError with every fault of the table, each with its line."""
    rows = written_rows(folder, name)
    return read_review(folder.path / f"{name}.csv", rows, task) if rows else {}


def decisions(folder: RunFolder, name: str, task: Task) -> Decisions:
    """Return what a person changed in the table ``name``; nothing if there is none. Raises as `answers_in` does."""
    answers = answers_in(folder, name, task)
    changed: dict[str, ReviewAnswer] = {}
    counts, unasked, still_open = Counter[str](), 0, list[str]()
    for row in written_rows(folder, name):
        answer = answers[row.id]
        if not row.label and not answer.label and answer.keep:
            still_open.append(row.id)
            continue
        if (answer.label, answer.keep) == (row.label, row.keep):
            continue
        changed[row.id] = answer
        if not answer.keep:
            unasked += answer.label != row.label and not answer.is_deleted
            counts["dropped"] += row.keep
        elif not row.label:
            counts["labelled"] += 1
        else:
            counts["relabelled"] += answer.label != row.label
            counts["kept"] += not row.keep
    done = {change: number for change, number in counts.items() if number}
    taught_labels = {row.label for row in written_rows(folder, name) if row.keep and row.label}
    lost_labels = sorted(taught_labels - {answer.label for answer in answers.values() if answer.keep})
    return Decisions(answers=changed, counts=done, unasked=unasked, open=tuple(still_open), gone=tuple(lost_labels))


def corrected_shots(shots: Sequence[Example], decided: Decisions) -> tuple[Example, ...]:
    """Return the shots with a person's labels, without those they dropped."""
    new_shots = []
    for number, shot in enumerate(shots):
        answer = decided.answers.get(shot_id(number))
        if answer is None or answer.keep:
            new_shots.append(Example(text=shot.text, label=answer.label) if answer else shot)
    return tuple(new_shots)


def corrected_pairs(pairs: TextPairs, decided: Decisions) -> TextPairs:
    """Return the texts with a person's decisions as verdicts; labels from a person are certain."""
    new_pairs: TextPairs = []
    for candidate, verdict in pairs:
        answer = decided.answers.get(candidate.id)
        if answer and not answer.keep:
            reason = "dropped_in_review" if verdict.kept else verdict.reason
            verdict = msgspec.structs.replace(verdict, kept=False, reason=reason)
        elif answer:
            candidate = msgspec.structs.replace(candidate, label=answer.label)
            verdict = Verdict(candidate_id=candidate.id, kept=True, reason="kept", predicted=answer.label)
        new_pairs.append((candidate, verdict))
    return new_pairs


def report_review(folder: RunFolder, task: Task, on_event: OnEvent) -> None:
    """Report what a review changes, before any work.

    Raises InputError for a table with faults, and if no row of it is kept and nothing else is learnt.
    """
    decided = decisions(folder, REVIEW, task)
    if {*decided.gone} == {*task.label_names} and not _learns_others(folder, task):
        raise InputError(
            f"{folder.path / REVIEW}.csv keeps no row, so there is nothing to learn. Enter yes under keep for some, or "
            "remove the table to continue without it."
        )
    if has_table(folder, REVIEW):
        on_event(Event(stage="shots", message=f"{folder.path}: {in_words(REVIEW, decided)}"))


def _learns_others(folder: RunFolder, task: Task) -> bool:
    """Return whether texts outside the table are learnt: less useful ones, and those that a person was asked about."""
    shown_ids = {row.id for row in written_rows(folder, REVIEW)}
    pairs = [*finished_pairs(folder), *finished_pairs(folder.unlabelled)]
    if any(verdict.kept and candidate.id not in shown_ids for candidate, verdict in pairs):
        return True
    return any(answer.keep for answer in decisions(folder, ASK, task).answers.values())


def in_words(name: str, decided: Decisions) -> str:
    """Return the decisions in one line for people."""
    counts = ", ".join(f"{number} {change}" for change, number in sorted(decided.counts.items())) or "nothing changed"
    deleted = sum(answer.is_deleted for answer in decided.answers.values())
    line = f"{name}.csv: {counts}" + (f" ({counted(deleted, 'row')} deleted)" if deleted else "")
    if decided.unasked:
        line += f"; {decided.unasked} have a new label, but keep is no, so they are not learnt"
    if decided.gone:
        line += f"; no row is left for {shorten(map(repr, decided.gone), MOST_NAMED)}, so the table does not teach it"
    return line

"""What a person says of a run's texts: which texts they are shown, and what follows from their answers.

review.csv and ask.csv in a run folder are the person's; review.json and ask.json beside them say what was written.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.run_folder import SHOTS_FILE, RunFolder
from fourshot.pipeline.cells.second_reading import READINGS, SecondReading, read_again
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.faults import MOST_NAMED, counted, shorten
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.rows.review_table import ReviewAnswer, ReviewRow, check_alone, read_review, write_review
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import TextPairs, Verdict
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import MANIFEST_FILE

REVIEW, ASK = "review", "ask"  # the tables, by the names of their files
DOUBTFUL = ("label_disagrees", "low_confidence")  # why a well-formed text is not kept


class Decisions(msgspec.Struct, frozen=True, kw_only=True):
    """What a table says beyond what was proposed; empty where a person changed nothing."""

    answers: dict[str, ReviewAnswer] = {}  # by id of the text, where they differ
    counts: dict[str, int] = {}  # "relabelled", "dropped", "kept", "labelled" -> texts
    unasked: int = 0  # rows that were relabelled and still say no under keep
    open: tuple[str, ...] = ()  # ids that a label was asked for, and have none
    gone: tuple[str, ...] = ()  # labels that had rows, and have none that is kept

    @property
    def content_hash(self) -> str:
        return value_hash(sorted(self.answers.items())) if self.answers else ""


def review_rows(folder: RunFolder) -> tuple[list[ReviewRow], dict[str, int]]:
    """The shots, and every text that is kept or doubtful, most useful first; and how many others there are, by reason.

    First the shots, because everything was written from them; then the texts that the annotators are least sure of.
    Raises InputError where no texts were annotated yet.
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
    """The texts that the model wrote, with the verdicts that count: those of a first classifier, where it read them.

    Where there are several such readings, of texts before and after a review, the annotators' verdicts.
    """
    pairs = finished_pairs(folder)
    readings = sorted(folder.path.glob(READINGS)) if settings.annotate.self_training else []
    if len(readings) != 1:
        return pairs
    return read_again(pairs, folder.read(readings[0].name, SecondReading), settings.generate.per_class)


def run_in(path: str | Path) -> RunFolder:
    """The folder of a run. Raises InputError where it is none."""
    folder = RunFolder(path)
    if missing := [name for name in (MANIFEST_FILE, SHOTS_FILE) if not folder.has(name)]:
        # Such as a distillation, whose annotated table a person corrects, or a comparison.
        usable_files = [
            str(file) for file in (folder.path / "report.html", *folder.path.glob("annotated.*")) if file.is_file()
        ]
        hint = f" What it has: {', '.join(usable_files)}." if usable_files else ""
        raise InputError(
            f"{path} is not the folder of a run: it has no {missing[0]}. Give one that a run was in.{hint}"
        )
    return folder


class ReviewSession(msgspec.Struct, frozen=True, kw_only=True):
    """A review that is there now."""

    path: str
    rows: int
    left_out: dict[str, int] = {}  # texts that are not in the table, by reason
    is_new: bool = False
    said: Decisions = Decisions()


def open_review(folder: RunFolder, most: int = 0) -> ReviewSession:
    """Write the table of a run's texts, the first ``most`` (0: all); one that is there is left alone and read.

    Raises InputError where there is nothing to review yet, and for a table with faults.
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
    """Of a distribution over labels, in nats; 0 where there is none."""
    return -sum(p * math.log(p) for p in probabilities.values() if p > 0)


def shot_id(number: int) -> str:
    return f"shot-{number}"


def has_table(folder: RunFolder, name: str) -> bool:
    return folder.has(f"{name}.csv")


def written_rows(folder: RunFolder, name: str) -> list[ReviewRow]:
    """The rows of a table as they were written; none where there is no table.

    Raises InputError where only the table is, or one was saved as something else than CSV.
    """
    check_alone(folder.path / f"{name}.csv", ".json")
    if not has_table(folder, name):
        return []
    if not folder.has(f"{name}.json"):
        raise InputError(
            f"{folder.path / name}.csv has no {name}.json beside it, which says what was written. Put it back, or "
            "remove the table to go on without it."
        )
    return folder.read(f"{name}.json", list[ReviewRow])


def write_rows(folder: RunFolder, name: str, rows: Sequence[ReviewRow]) -> None:
    """What is written, then the table: it is there when all is."""
    folder.write(f"{name}.json", rows)
    write_review(folder.path / f"{name}.csv", rows, task=folder.manifest().task)


def answers_in(folder: RunFolder, name: str, task: Task) -> dict[str, ReviewAnswer]:
    """A person's answers by id. Raises InputError with every fault of the table, each with its line."""
    rows = written_rows(folder, name)
    return read_review(folder.path / f"{name}.csv", rows, task) if rows else {}


def decisions(folder: RunFolder, name: str, task: Task) -> Decisions:
    """What the table ``name`` says; nothing where there is none. Raises InputError as `answers_in` does."""
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
    """The shots as a person left them."""
    new_shots = []
    for number, shot in enumerate(shots):
        answer = decided.answers.get(shot_id(number))
        if answer is None or answer.keep:
            new_shots.append(Example(text=shot.text, label=answer.label) if answer else shot)
    return tuple(new_shots)


def corrected_pairs(pairs: TextPairs, decided: Decisions) -> TextPairs:
    """The texts with the verdicts that a person left; a label of theirs is learnt for certain."""
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


def tell_review(folder: RunFolder, task: Task, on_event: OnEvent) -> None:
    """Say what a review changes, before anything is done. Raises InputError for a table with faults."""
    decided = decisions(folder, REVIEW, task)
    if {*decided.gone} == {*task.label_names} and not _learns_others(folder, task):
        raise InputError(
            f"{folder.path / REVIEW}.csv keeps no row, so there is nothing to learn. Say yes under keep for some, or "
            "remove the table to go on without it."
        )
    if has_table(folder, REVIEW):
        on_event(Event(stage="shots", message=f"{folder.path}: {in_words(REVIEW, decided)}"))


def _learns_others(folder: RunFolder, task: Task) -> bool:
    """Whether texts are learnt that are not in the table: those of less use than its rows, and those asked about."""
    shown_ids = {row.id for row in written_rows(folder, REVIEW)}
    pairs = [*finished_pairs(folder), *finished_pairs(folder.unlabelled)]
    if any(verdict.kept and candidate.id not in shown_ids for candidate, verdict in pairs):
        return True
    return any(answer.keep for answer in decisions(folder, ASK, task).answers.values())


def in_words(name: str, decided: Decisions) -> str:
    """One line for people."""
    counts = ", ".join(f"{number} {change}" for change, number in sorted(decided.counts.items())) or "nothing changed"
    deleted = sum(answer.is_deleted for answer in decided.answers.values())
    line = f"{name}.csv: {counts}" + (f" ({counted(deleted, 'row')} deleted)" if deleted else "")
    if decided.unasked:
        line += f"; {decided.unasked} have a new label and no under keep, so they are not learnt"
    if decided.gone:
        line += (
            f"; no row is left of {shorten(map(repr, decided.gone), MOST_NAMED)}, so nothing in the table teaches it"
        )
    return line

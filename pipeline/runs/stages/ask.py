"""Choose those of the user's own texts whose labels would help most, and write a table for a person to fill in."""

from collections import Counter
from pathlib import Path

import msgspec

from fourshot.engine.encoder import Encoder, embedded_encoder
from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.asking import select_for_labelling
from fourshot.pipeline.cells.review import ASK, decisions, entropy, has_table, in_words, write_rows, written_rows
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.faults import MOST_NAMED, counted, shorten
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.rows.review_table import ReviewRow
from fourshot.pipeline.runs.experiment import Experiment
from fourshot.pipeline.runs.stages.stage import Stage


class AskItem(msgspec.Struct, frozen=True, kw_only=True):
    """A run folder whose unlabelled texts are annotated, and how many of them to ask a person about."""

    folder: str
    count: int
    seed: int

    @property
    def key(self) -> str:
        return self.folder


class AskStage(Stage, frozen=True, kw_only=True, tag="ask"):
    """Choose texts, with the embedded encoder, and write the table."""

    items: tuple[AskItem, ...]

    def is_finished(self, item: AskItem) -> bool:
        return has_table(RunFolder(item.folder), ASK)

    def _do(self, item: AskItem, on_event: OnEvent) -> None:
        if self.is_finished(item):
            return
        on_event(Event(stage=self.name, message="comparing your texts"))
        folder = RunFolder(item.folder)
        pairs = finished_pairs(folder.unlabelled)
        annotated_pairs = [(c, v) for c, v in pairs if v.probabilities]
        if not annotated_pairs:
            reasons = Counter(verdict.reason.replace("_", " ") for _, verdict in pairs)
            raise InputError(
                f"none of your {counted(len(pairs), 'text')} can be selected for --ask: the text filter rejected "
                f"{', '.join(f'{number} as {reason}' for reason, number in reasons.items())}. Give longer or other "
                "texts, or leave --ask out."
            )
        vectors = Encoder().encode([candidate.text for candidate, _ in annotated_pairs])
        unsure = [entropy(verdict.probabilities) for _, verdict in annotated_pairs]
        chosen = [annotated_pairs[index] for index in select_for_labelling(vectors, unsure, item.count, item.seed)]
        rows = [
            ReviewRow(id=c.id, text=c.text, label="", keep=True, why="asked", probabilities=v.probabilities)
            for c, v in chosen
        ]
        write_rows(folder, ASK, rows)


def check_askable(count: int, has_unlabelled: bool) -> None:
    """Raise InputError, before any work, where ``count`` texts cannot be asked about."""
    if count < 1:
        raise InputError(f"--ask is a number of texts, at least 1; got {count}.")
    if not has_unlabelled:
        raise InputError("--ask selects from your unlabelled texts. Give them with --unlabelled FILE.")
    embedded_encoder()


def questions(experiment: Experiment, count: int) -> AskStage:
    """Return the choice of ``count`` of the user's own texts in a run."""
    folder = experiment.cell("fourshot").folder
    item = AskItem(folder=str(folder.path), count=count, seed=experiment.seeds[0].seed)
    return AskStage(model_path=experiment.model.path, items=(item,))


def unanswered(experiment: Experiment, count: int, on_event: OnEvent) -> Path | None:
    """Return the table that a person has yet to fill in.

    None if there is no table, it is filled in, or it is empty and ``count`` is 0: the run then continues. Raises
    InputError for a table with faults, one that is filled in only partly, or one of another ``count``.
    """
    folder = experiment.cell("fourshot").folder
    if not has_table(folder, ASK):
        return None
    path, num_asked = folder.path / f"{ASK}.csv", len(written_rows(folder, ASK))
    decided = decisions(folder, ASK, experiment.task)
    if count and num_asked != min(count, len([v for _, v in finished_pairs(folder.unlabelled) if v.probabilities])):
        raise InputError(
            f"{path} has {num_asked} texts to label, but --ask is {count}. Give --ask {num_asked}, or remove the table "
            "to have texts selected again."
        )
    if not decided.open:
        on_event(Event(stage="ask", message=in_words(ASK, decided)))
        return None
    if decided.answers:
        raise InputError(
            f"{path}: {len(decided.open)} of {num_asked} texts have no label yet ({shorten(decided.open)}). Label them "
            f"(the labels are {shorten(experiment.task.label_names, MOST_NAMED)}), enter no under keep, or delete "
            "the rows."
        )
    if not count:
        on_event(Event(stage="ask", message=f"{path} was not filled in, so the run continues without it"))
        return None
    return path

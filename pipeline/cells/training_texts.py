"""Training texts of a method's classifier: real examples, generated texts, the user's texts, and a person's answers."""

import msgspec

from fourshot.pipeline.cells.calibrating import FEWEST_UNSEEN, MOST_UNSEEN, evenly_chosen
from fourshot.pipeline.cells.cell import MethodCell
from fourshot.pipeline.cells.review import (
    ASK,
    REVIEW,
    Decisions,
    corrected_pairs,
    corrected_shots,
    decisions,
)
from fourshot.pipeline.cells.self_training import SelfTrainingLabels, with_self_training_labels
from fourshot.pipeline.loop.rounds import REASONS_AFTER_ANNOTATION, finished_pairs
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.synthesis.types import TextPairs
from fourshot.pipeline.task import Example, Task

HELD_BACK = 0.1  # share of the texts with probabilities that are not trained on


class TrainingTexts(msgspec.Struct, frozen=True, kw_only=True):
    """Texts with a person's corrections. The verdicts say which of them are learnt."""

    shots: tuple[Example, ...] = ()
    answered: tuple[Example, ...] = ()  # the user's texts that a person labelled
    synthetic: TextPairs = []
    unlabelled: TextPairs = []
    review: Decisions = Decisions()
    labelled: Decisions = Decisions()  # on texts that a person was asked about
    held_back: frozenset[str] = frozenset()  # ids of kept texts that are not learnt, so that calibration can use them

    @property
    def real(self) -> tuple[Example, ...]:
        return (*self.shots, *self.answered)

    @property
    def kept(self) -> TextPairs:
        return [*self.trained_on(self.synthetic), *self.trained_on(self.unlabelled)]

    def trained_on(self, pairs: TextPairs) -> TextPairs:
        """Return those of ``pairs`` that the classifier is trained on."""
        return [(c, v) for c, v in pairs if v.kept and c.id not in self.held_back]

    @property
    def unseen(self) -> TextPairs:
        """Texts that reached the annotators and that the classifier is not trained on."""
        return [(c, v) for c, v in self._judged if not v.kept or c.id in self.held_back]

    @property
    def annotated(self) -> TextPairs:
        """Texts with the annotators' probabilities; a person labelled or dropped none of them."""
        return [(c, v) for c, v in self._judged if v.probabilities]

    @property
    def _judged(self) -> TextPairs:
        """Texts that reached the annotators."""
        pairs = (*self.synthetic, *self.unlabelled)
        return [(c, v) for c, v in pairs if v.reason in REASONS_AFTER_ANNOTATION]

    @property
    def lineage(self) -> dict[str, str]:
        """Content hashes of the kept texts and of a person's decisions, by name."""
        parts = {
            "synthetic": [c for c, v in self.synthetic if v.kept],
            "unlabelled": [(c, v) for c, v in self.unlabelled if v.kept],
        }
        hashes = {name: value_hash(texts) for name, texts in parts.items() if texts or name == "synthetic"}
        table_hashes = {"review": self.review.content_hash, "asked": self.labelled.content_hash}
        return hashes | {name: content for name, content in table_hashes.items() if content}


def training_texts_of(cell: MethodCell, task: Task, predictions: SelfTrainingLabels | None = None) -> TrainingTexts:
    """Return the texts of finished rounds; ``predictions``: a first classifier's labels, which replace verdicts.

    Raises InputError for a table with faults.
    """
    if not cell.method.synthetic:
        return TrainingTexts(shots=cell.real)
    review, labelled = (decisions(cell.folder, name, task) for name in (REVIEW, ASK))
    unlabelled_pairs = finished_pairs(cell.folder.unlabelled)
    instead = bool(unlabelled_pairs) and cell.settings.unlabelled.mode == "instead"
    answers = {name: answer for name, answer in labelled.answers.items() if answer.keep}
    drawn_pairs = [] if instead else finished_pairs(cell.folder)
    if predictions:
        drawn_pairs = with_self_training_labels(drawn_pairs, predictions, cell.settings.generate.per_class)
    learnt = TrainingTexts(
        shots=corrected_shots(cell.shots, review),
        answered=tuple(Example(text=c.text, label=answers[c.id].label) for c, _ in unlabelled_pairs if c.id in answers),
        synthetic=corrected_pairs(drawn_pairs, review),
        unlabelled=corrected_pairs(
            corrected_pairs([(c, v) for c, v in unlabelled_pairs if c.id not in answers], labelled), review
        ),
        review=review,
        labelled=labelled,
    )
    if not (cell.settings.calibrate and cell.settings.learns_soft):
        return learnt
    return msgspec.structs.replace(learnt, held_back=held_back(learnt))


def held_back(learnt: TrainingTexts) -> frozenset[str]:
    """Return ids of kept texts to hold back: if all are kept, none would be left to calibrate the classifier on.

    Texts that a person corrected are not among them, because their label is certain. There are none if they would be
    too few to calibrate on.
    """
    ids = [candidate.id for candidate, verdict in learnt.kept if verdict.probabilities]
    count = int(HELD_BACK * len(ids))
    return frozenset(evenly_chosen(ids, min(count, MOST_UNSEEN)) if count >= FEWEST_UNSEEN else ())

"""Self-training: a first classifier's predictions for a run's texts, and which of these the final one is trained on.

The annotators are trained on the shots alone. A first classifier is trained on the texts of which they are most
confident. It is more accurate on the others, including those that the annotators rejected (docs/training-log.md has the
measurements).
"""

from collections import Counter

import msgspec

from fourshot.pipeline.synthesis.types import Candidate, TextPairs, Verdict

SELF_TRAINING_FILES = "second_reading-*.json"  # files with predictions, one for each training of a first classifier
FIRST_SHARE = 0.5  # of the texts per class that the first classifier is trained on


class SelfTrainingLabels(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted label and its probability for each text, by the candidate's id."""

    labels: dict[str, tuple[str, float]]


def surest(pairs: TextPairs, per_class: int) -> TextPairs:
    """Return the most confident texts of each class among those whose intended label was predicted, in their order.

    Texts that a person labelled are chosen first.
    """
    agreed = [pair for pair in pairs if pair[1].reason in ("kept", "surplus")]
    certainties = {c.id: (c.label, v.probabilities[c.label] if v.probabilities else 1.0) for c, v in agreed}
    chosen = _surest_of_each(certainties, max(1, round(FIRST_SHARE * per_class)))
    return [(c, _kept(v, v.predicted)) for c, v in agreed if c.id in chosen]


def with_self_training_labels(pairs: TextPairs, predictions: SelfTrainingLabels, per_class: int) -> TextPairs:
    """Return ``pairs`` with verdicts by a first classifier: the most confident texts of each predicted class are kept.

    They get the predicted label as their label. All others have the annotators' verdict; those that were kept are
    surplus.
    """
    chosen = _surest_of_each(predictions.labels, per_class)
    new_pairs = list[tuple[Candidate, Verdict]]()
    for candidate, verdict in pairs:
        if candidate.id in chosen:
            label, _ = predictions.labels[candidate.id]
            new_pairs.append((msgspec.structs.replace(candidate, label=label), _kept(verdict, label)))
        elif verdict.kept:
            new_pairs.append((candidate, msgspec.structs.replace(verdict, kept=False, reason="surplus")))
        else:
            new_pairs.append((candidate, verdict))
    return new_pairs


def _surest_of_each(labels: dict[str, tuple[str, float]], most: int) -> set[str]:
    """Return the ids of the ``most`` texts of each label with the highest probability; ties go to the first."""
    room, chosen = Counter[str](), set[str]()
    for text_id, (label, _) in sorted(labels.items(), key=lambda item: -item[1][1]):
        if room[label] < most:
            room[label] += 1
            chosen.add(text_id)
    return chosen


def _kept(verdict: Verdict, label: str) -> Verdict:
    return msgspec.structs.replace(verdict, kept=True, reason="kept", predicted=label)

"""What a first classifier says of a run's texts, and which of them the last one learns.

The annotators learnt the shots alone. A first classifier learns the texts of which they are surest, and is right more
often of the others, those that the annotators rejected among them (docs/training-log.md has the measurements).
"""

from collections import Counter

import msgspec

from fourshot.pipeline.synthesis.types import Candidate, TextPairs, Verdict

READINGS = "second_reading-*.json"  # the files of readings, one for each training of a first classifier
FIRST_SHARE = 0.5  # of the texts per class: what the first classifier learns


class SecondReading(msgspec.Struct, frozen=True, kw_only=True):
    """Label and probability of each text, by the candidate's id."""

    labels: dict[str, tuple[str, float]]


def surest(pairs: TextPairs, per_class: int) -> TextPairs:
    """Of the texts whose annotators say what was asked for, the surest of each class, in their order.

    First come those that a person labelled.
    """
    agreed = [pair for pair in pairs if pair[1].reason in ("kept", "surplus")]
    certainties = {c.id: (c.label, v.probabilities[c.label] if v.probabilities else 1.0) for c, v in agreed}
    chosen = _surest_of_each(certainties, max(1, round(FIRST_SHARE * per_class)))
    return [(c, _kept(v, v.predicted)) for c, v in agreed if c.id in chosen]


def read_again(pairs: TextPairs, reading: SecondReading, per_class: int) -> TextPairs:
    """``pairs`` with verdicts by a second reading: kept are the surest texts of each class, with the label read.

    All others stay with what the annotators said of them; those that were kept are surplus.
    """
    chosen = _surest_of_each(reading.labels, per_class)
    read_pairs = list[tuple[Candidate, Verdict]]()
    for candidate, verdict in pairs:
        if candidate.id in chosen:
            label, _ = reading.labels[candidate.id]
            read_pairs.append((msgspec.structs.replace(candidate, label=label), _kept(verdict, label)))
        elif verdict.kept:
            read_pairs.append((candidate, msgspec.structs.replace(verdict, kept=False, reason="surplus")))
        else:
            read_pairs.append((candidate, verdict))
    return read_pairs


def _surest_of_each(labels: dict[str, tuple[str, float]], most: int) -> set[str]:
    """Ids of the ``most`` texts of each label with the highest probability; of equal ones the first."""
    room, chosen = Counter[str](), set[str]()
    for text_id, (label, _) in sorted(labels.items(), key=lambda item: -item[1][1]):
        if room[label] < most:
            room[label] += 1
            chosen.add(text_id)
    return chosen


def _kept(verdict: Verdict, label: str) -> Verdict:
    return msgspec.structs.replace(verdict, kept=True, reason="kept", predicted=label)

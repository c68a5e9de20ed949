"""Which texts a first classifier learns, and which are learnt after it has read them."""

import msgspec

from fourshot.pipeline.cells.self_training import SelfTrainingLabels, surest, with_self_training_labels
from fourshot.pipeline.synthesis.types import Reason, TextPairs, Verdict
from tests.pipeline.candidates import candidate


def pair(name: str, label: str, says: str, certainty: float, reason: Reason = "kept") -> TextPairs:
    drawn = msgspec.structs.replace(candidate(0, f"text {name}", label), id=name)
    rest = 1 - certainty
    probabilities = {"warm": certainty, "cold": rest} if says == "warm" else {"warm": rest, "cold": certainty}
    kept = reason == "kept"
    return [(drawn, Verdict(candidate_id=name, kept=kept, reason=reason, predicted=says, probabilities=probabilities))]


PAIRS = [
    *pair("a", "warm", "warm", 0.6),
    *pair("b", "warm", "warm", 0.9),
    *pair("c", "warm", "warm", 0.8, "surplus"),
    *pair("d", "cold", "warm", 0.99, "label_disagrees"),
    *pair("e", "cold", "cold", 0.7),
    *pair("f", "cold", "cold", 0.55),
]
PREDICTIONS = SelfTrainingLabels(
    labels={"a": ("cold", 0.9), "b": ("warm", 0.8), "c": ("warm", 0.7), "d": ("cold", 0.95), "e": ("cold", 0.6)}
)


def test_a_first_classifier_learns_half_of_each_class_the_surest() -> None:
    assert [(c.id, c.label, v.kept) for c, v in surest(PAIRS, 4)] == [
        ("b", "warm", True),
        ("c", "warm", True),
        ("e", "cold", True),
        ("f", "cold", True),
    ]
    assert [c.id for c, _ in surest(PAIRS, 2)] == ["b", "e"] and [c.id for c, _ in surest(PAIRS, 1)] == ["b", "e"]


def test_what_a_person_labelled_is_learnt_first() -> None:
    drawn, verdict = pair("g", "warm", "warm", 0.5)[0]
    labelled = (drawn, msgspec.structs.replace(verdict, probabilities={}))
    assert [c.id for c, _ in surest([*PAIRS, labelled], 2)] == ["e", "g"]


def test_the_surest_that_it_reads_are_learnt_as_it_reads_them_and_others_are_surplus() -> None:
    again = with_self_training_labels(PAIRS, PREDICTIONS, 2)
    assert [(c.id, c.label, v.reason, v.predicted) for c, v in again if v.kept] == [
        ("a", "cold", "kept", "cold"),
        ("b", "warm", "kept", "warm"),
        ("c", "warm", "kept", "warm"),
        ("d", "cold", "kept", "cold"),
    ]
    assert [(c.id, c.label, v.reason) for c, v in again if not v.kept] == [
        ("e", "cold", "surplus"),
        ("f", "cold", "surplus"),
    ]
    for (_, before), (_, after) in zip(PAIRS, again, strict=True):
        assert before.probabilities == after.probabilities, "how sure the annotators are, for calibration"
    assert [c.id for c, _ in again] == [c.id for c, _ in PAIRS] and PAIRS[0][0].label == "warm"


def test_of_equally_sure_texts_the_first_is_learnt() -> None:
    predictions = SelfTrainingLabels(labels=dict.fromkeys("fedcba", ("warm", 0.5)))
    assert [c.id for c, v in with_self_training_labels(PAIRS, predictions, 2) if v.kept] == ["e", "f"]

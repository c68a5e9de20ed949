"""What shots that an annotator has not seen say of it."""

import time

import numpy as np
import pytest

from fourshot.engine import calibration as calibrations
from fourshot.pipeline.synthesis.evidence import (
    KindEvidence,
    label_prior,
    learnt_probabilities,
    shot_folds,
    weigh,
)
from fourshot.pipeline.synthesis.settings import AnnotateSettings
from fourshot.pipeline.trust import chance_warning, evidence_line
from tests.pipeline.candidates import candidate

TARGETS = np.array([0, 1, 2] * 4)


def answers(right: float, wrong_ones: int = 0) -> np.ndarray:
    """Log-probabilities [12, 3]: ``right`` for the target, but for the first ``wrong_ones`` texts, which go astray."""
    predicted = np.where(np.arange(12) < wrong_ones, (TARGETS + 1) % 3, TARGETS)
    rows = np.full((12, 3), (1 - right) / 2)
    rows[np.arange(12), predicted] = right
    return np.log(rows)


def test_folds_deal_each_class_out_evenly_and_leave_no_class_without_a_shot() -> None:
    labels = ["a", "b", "a", "b", "a", "c", "a"]
    assert shot_folds(labels, 2) == [0, 0, 1, 1, 0, None, 1]
    assert shot_folds(labels, 1) == [None] * 7


def test_who_is_right_about_unseen_shots_counts_more() -> None:
    evidence = weigh({"good": answers(0.8, 1), "poor": answers(0.8, 8)}, TARGETS)
    assert evidence["good"].weight > 2 * evidence["poor"].weight
    assert evidence["good"].accuracy == pytest.approx(11 / 12)
    assert evidence["poor"].accuracy == pytest.approx(4 / 12)
    assert evidence["good"].num_texts == 12
    assert evidence_line(evidence).startswith("good: 92% of 12 held-out shots correct (weight ")


@pytest.mark.parametrize(("wrong_ones", "is_doubted"), [(0, False), (5, False), (6, False), (7, True), (12, True)])
def test_annotators_that_may_be_guessing_are_doubted(wrong_ones: int, is_doubted: bool) -> None:
    """Of twelve shots of three classes, guessing has six or more right in 18 % of all cases, and five in 37 %."""
    evidence = weigh({"adapters": answers(0.8, wrong_ones), "encoders": answers(0.8, 12)}, TARGETS)
    warning = chance_warning(evidence, 3)
    assert (f"the annotators classify {12 - wrong_ones} of 12 held-out shots correctly" in warning) == is_doubted
    assert bool(warning) == is_doubted


@pytest.mark.parametrize(("labels", "correct", "is_doubted"), [(77, 1078, False), (2, 2400, True), (2, 2500, False)])
def test_thousands_of_held_out_shots_are_counted_like_few(labels: int, correct: int, is_doubted: bool) -> None:
    evidence = KindEvidence(weight=1.0, accuracy=correct / 4800, loss=1.0, num_texts=4800)
    assert bool(chance_warning({"adapters": evidence}, labels)) == is_doubted


def test_a_thousand_labels_take_no_longer_than_as_many_single_ones() -> None:
    names, began_s = [f"label {number}" for number in range(3000)], time.perf_counter()
    probabilities = {name: 1 / (number + 2) for number, name in enumerate(names)}
    learnt = learnt_probabilities(candidate(1, "a text", names[5]), probabilities, names, AnnotateSettings())
    assert time.perf_counter() - began_s < 0.2
    assert sum(learnt) == pytest.approx(1) and max(learnt) == learnt[5]


def test_who_is_certain_and_often_wrong_is_believed_less_than_who_is_unsure_and_as_often_wrong() -> None:
    certain, unsure = (weigh({"one": answers(sure, 4)}, TARGETS)["one"] for sure in (0.9998, 0.7))
    assert certain.weight < 0.5 * unsure.weight
    pooled = calibrations.normalise(certain.weight * answers(0.9998, 4))
    assert 0.55 < pooled.max(axis=1).mean() < 0.95, "of twelve texts four are wrong, and so it says"


def test_few_shots_move_weights_less_than_many() -> None:
    few = slice(0, 3)
    little = weigh({"good": answers(0.9)[few], "poor": answers(0.9, 12)[few]}, TARGETS[few])
    much = weigh({"good": answers(0.9), "poor": answers(0.9, 12)}, TARGETS)
    assert 0.5 < little["good"].weight < much["good"].weight
    assert 0.5 > little["poor"].weight > much["poor"].weight


def test_a_label_that_is_always_preferred_is_preferred_no_more() -> None:
    biased = np.log(calibrations.normalise(answers(0.5) + np.array([2.0, 0.0, 0.0])))
    assert (biased.argmax(axis=1) == 0).all()
    calibrated = calibrations.apply(label_prior(biased, TARGETS), biased)
    assert (calibrated.argmax(axis=1) == TARGETS).all()


@pytest.mark.parametrize(("num_first", "num_second"), [(4, 1), (4, 2), (25, 2)])
def test_a_label_of_few_texts_is_not_one_that_the_reader_avoids(num_first: int, num_second: int) -> None:
    targets = np.array([0] * num_first + [1] * num_second)
    rows = np.where(targets[:, None] == np.arange(2), 0.9, 0.1)
    prior = label_prior(np.log(rows), targets)
    even = np.exp(calibrations.apply(prior, np.log(np.array([[0.5, 0.5]]))))
    assert even[0, 0] == pytest.approx(0.5, abs=0.2)
    read = np.exp(calibrations.apply(prior, np.log(np.array([[0.75, 0.25], [0.25, 0.75]]))))
    assert (read.argmax(axis=1) == [0, 1]).all()


def test_of_a_label_without_a_text_nothing_is_known() -> None:
    prior = label_prior(np.log(np.array([[0.9, 0.1], [0.8, 0.2]])), np.array([0, 0]))
    read = np.exp(calibrations.apply(prior, np.log(np.array([[0.75, 0.25]]))))
    assert read[0, 0] == pytest.approx(0.75, abs=0.03)

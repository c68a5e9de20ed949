"""Answering only what one is sure of: the curve, the threshold for a coverage, and what gets no label."""

import numpy as np
import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.selective import AbstentionRule, Refusal, Refusing, Scope, coverage_curve, rounded_down, rule_of

SURE = np.linspace(0.4, 0.99, 100)
SCOPE = Scope(least_probability=0.5, false_rejects=0.05, num_texts=100, false_accepts=0.3, num_others=40)


def test_the_surest_texts_come_first_and_the_last_point_is_all_of_them() -> None:
    curve = coverage_curve(SURE, SURE > 0.7, "test split")
    assert [point.coverage for point in curve.points] == pytest.approx(np.arange(1, 21) / 20)
    assert curve.points[-1].accuracy == pytest.approx((SURE > 0.7).mean(), abs=1e-4)
    assert curve.points[0].accuracy == 1.0
    assert sorted(curve.points, key=lambda point: -point.threshold) == list(curve.points)


def test_equally_sure_texts_are_answered_together() -> None:
    curve = coverage_curve([0.9, 0.9, 0.9, 0.5], [1, 0, 1, 1], "test split")
    assert [(point.coverage, point.threshold) for point in curve.points] == [(0.75, 0.9), (1.0, 0.5)]


@pytest.mark.parametrize("count", [1, 2, 7, 19, 60])
def test_a_points_threshold_answers_its_share_of_the_texts(count: int) -> None:
    sure = np.random.default_rng(count).uniform(0.1, 1.0, count)
    curve = coverage_curve(sure, np.ones(count), "held-out texts")
    for point in curve.points:
        assert np.mean(sure >= point.threshold) == pytest.approx(point.coverage, abs=1e-4)
        assert curve.threshold(point.coverage) == pytest.approx(0.0 if point.coverage == 1 else point.threshold)


def test_no_text_has_no_curve() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        coverage_curve([], [], "test split")


def test_a_coverage_is_the_threshold_of_the_curve() -> None:
    curve = coverage_curve(SURE, SURE > 0.7, "test split")
    rule = rule_of(Refusal(coverage=0.5), curve, None)
    assert np.mean([not rule.abstains(float(sure)) for sure in SURE]) == pytest.approx(0.5, abs=0.02)


def test_what_is_unsure_or_unlike_the_task_gets_no_label() -> None:
    assert AbstentionRule().abstains(0.01) == ""
    rule = rule_of(Refusal(abstain_below=0.6, none_of_these=True), None, SCOPE)
    assert [rule.abstains(sure) for sure in (0.6, 0.59, 0.5, 0.49)] == ["", "unsure", "unsure", "none_of_these"]
    assert rule_of(Refusal(abstain_below=0.4), None, SCOPE).abstains(0.45) == ""


@pytest.mark.parametrize(
    ("refusal", "message"),
    [(Refusal(coverage=0.5), "no curve of accuracy"), (Refusal(none_of_these=True), "no out-of-scope rule")],
)
def test_what_a_card_does_not_have_is_not_guessed(refusal: Refusal, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rule_of(refusal, None, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"abstain_below": 1.1},
        {"abstain_below": -0.1},
        {"abstain_below": float("nan")},
        {"coverage": 0.0},
        {"coverage": 1.5},
        {"abstain_below": 0.5, "coverage": 0.5},
    ],
)
def test_shares_and_probabilities_are_between_0_and_1_and_exclude_each_other(fields: Refusing) -> None:
    with pytest.raises(InputError):
        Refusal(**fields)


def test_a_classifier_that_is_nearly_certain_answers_the_share_that_is_asked_for() -> None:
    """Its probabilities are nearer to 1 than five decimals can say."""
    log_odds = np.random.default_rng(0).normal(14, 3, 500)
    sure = 1 / (1 + np.exp(-log_odds))
    written_down = [rounded_down(float(probability)) for probability in sure]
    curve = coverage_curve(written_down, np.ones(500), "test split")
    for coverage in (0.25, 0.5, 0.75):
        rule = rule_of(Refusal(coverage=coverage), curve, None)
        answered = np.mean([not rule.abstains(float(probability)) for probability in sure])
        assert abs(answered - coverage) < 0.02

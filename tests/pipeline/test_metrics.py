import numpy as np
import pytest

from fourshot.pipeline.metrics import expected_calibration_error, macro_f1, score_predictions, wilson_interval


def random_predictions(n: int, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    dice = np.random.default_rng(7)
    return dice.dirichlet(np.ones(num_labels), size=n), dice.integers(num_labels, size=n)


# What `accuracy_score` and `f1_score` of scikit-learn 1.9 say of these. It is not installed for that alone: wherever it
# is, transformers imports it, at the start of each process.
@pytest.mark.parametrize(
    ("n", "num_labels", "accuracy", "f1"),
    [(1, 2, 1.0, 1.0), (50, 2, 0.68, 0.6715927750410509), (400, 6, 0.1525, 0.1523216394108413)],
)
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(n: int, num_labels: int, accuracy: float, f1: float) -> None:
    scores = score_predictions(*random_predictions(n, num_labels))
    assert scores.n == n
    assert scores.accuracy == pytest.approx(accuracy)
    assert scores.macro_f1 == pytest.approx(f1)


def test_a_label_that_is_neither_predicted_nor_gold_does_not_count_into_macro_f1() -> None:
    assert macro_f1([0, 1, 1], [0, 1, 1]) == 1.0
    assert macro_f1([0, 0], [0, 2]) == pytest.approx((2 / 3 + 0) / 2)


def test_calibration_error_by_hand() -> None:
    # Bin (0.6, 0.667]: confidence 0.65 twice, one right: gap 0.15. Bin (0.867, 0.933]: 0.9 twice, both right: gap 0.1.
    assert expected_calibration_error([0.65, 0.65, 0.9, 0.9], [1, 0, 1, 1]) == pytest.approx(0.5 * 0.15 + 0.5 * 0.1)
    assert expected_calibration_error([1.0, 1.0], [True, True]) == 0.0
    assert expected_calibration_error([1.0, 1.0], [False, False]) == 1.0


def test_over_and_underconfidence_cancel_only_inside_a_bin() -> None:
    assert expected_calibration_error([0.5, 0.5], [1, 0], num_bins=15) == pytest.approx(0.0)
    assert expected_calibration_error([0.4, 0.6], [1, 0], num_bins=2) == pytest.approx(0.6)
    assert expected_calibration_error([0.4, 0.6], [1, 0], num_bins=1) == pytest.approx(0.0)


def test_wilson_interval_by_hand() -> None:
    # p = 0.8, n = 10, z^2 = 3.8415: centre (0.8 + 0.19207) / 1.38415, half width 1.95996 / 1.38415 * sqrt(0.025604).
    assert wilson_interval(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-4)
    assert wilson_interval(0, 10)[0] == 0.0 and wilson_interval(0, 10)[1] == pytest.approx(0.27753, abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-4) and wilson_interval(10, 10)[1] <= 1.0


def test_costs_are_passed_on() -> None:
    scores = score_predictions([[0.2, 0.8]], [1], seconds=1.5, prompt_tokens=42, cached_tokens=32)
    assert (scores.seconds, scores.prompt_tokens, scores.cached_tokens) == (1.5, 42, 32)
    assert scores.interval == wilson_interval(1, 1)


@pytest.mark.parametrize(
    ("probabilities", "gold", "message"),
    [
        (np.empty((0, 2)), np.empty(0, dtype=int), "nothing to score"),
        ([[0.5, 0.5]], [], "nothing to score"),
        ([[0.5, 0.5]], [0, 1], "expected"),
        ([0.5, 0.5], [0, 1], "expected"),
        ([[0.5, 0.5]], [2], "from 0 to 1"),
        ([[0.5, 0.5]], [-1], "from 0 to 1"),
        ([[0.5, 0.5]], [0.0], "integers"),
        ([[0.5, 0.5], [-0.7, -1.2]], [0, 1], "row 1 is not a distribution"),
        ([[0.5, float("nan")]], [0], "row 0 is not a distribution"),
    ],
)
def test_what_cannot_be_scored_is_refused(probabilities: object, gold: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_predictions(probabilities, gold)  # type: ignore[arg-type]


def test_metrics_of_nothing_raise() -> None:
    for metric in (macro_f1, expected_calibration_error):
        with pytest.raises(ValueError, match="non-empty"):
            metric([], [])
    with pytest.raises(ValueError, match="n >= 1"):
        wilson_interval(0, 0)

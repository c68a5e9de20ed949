"""Calibration of label probabilities."""

import numpy as np
import pytest

from fourshot.engine import calibration
from fourshot.engine.errors import InputError

BIASED = np.log(np.array([[0.08, 0.02], [0.06, 0.04], [0.07, 0.03], [0.05, 0.05]]))  # the first label is liked too well


def test_normalised_rows_sum_to_one_and_keep_their_ratios() -> None:
    probabilities = calibration.normalise(BIASED)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    np.testing.assert_allclose(probabilities[0], [0.8, 0.2])
    np.testing.assert_allclose(calibration.normalise(np.array([[-2000.0, -2001.0]])).sum(), 1.0)


def test_none_only_normalises() -> None:
    np.testing.assert_allclose(np.exp(calibration.apply(calibration.NONE, BIASED)), calibration.normalise(BIASED))


def test_contextual_makes_a_content_free_text_undecided() -> None:
    content_free = np.log(np.array([[0.3, 0.1], [0.6, 0.2]]))
    fitted = calibration.contextual(content_free)
    assert fitted.method == "contextual"
    np.testing.assert_allclose(np.exp(calibration.apply(fitted, content_free)), 0.5)


def test_batch_takes_off_the_mean_of_the_batch() -> None:
    fitted = calibration.batch(BIASED)
    np.testing.assert_allclose(np.exp(fitted.log_prior), [0.65, 0.35])
    predicted = calibration.apply(fitted, BIASED).argmax(axis=1)
    assert predicted.tolist() == [0, 1, 0, 1]  # uncalibrated: 0, 0, 0, undecided


def test_a_target_prior_puts_the_known_shares_back() -> None:
    even = calibration.batch(BIASED, [1, 1])
    np.testing.assert_allclose(calibration.apply(even, BIASED), calibration.apply(calibration.batch(BIASED), BIASED))
    skewed = calibration.apply(calibration.batch(BIASED, [0.9, 0.1]), BIASED)
    assert (np.exp(skewed)[:, 0] > np.exp(calibration.apply(even, BIASED))[:, 0]).all()


def test_a_label_that_is_never_said_stays_finite() -> None:
    scores = np.array([[0.0, -5000.0], [0.0, -4000.0]])
    fitted = calibration.batch(scores)
    assert np.isfinite(fitted.log_prior).all()
    assert np.isfinite(calibration.apply(fitted, scores)).all()


def test_calibrations_survive_json() -> None:
    import msgspec

    fitted = calibration.batch(BIASED)
    assert msgspec.json.decode(msgspec.json.encode(fitted), type=calibration.Calibration) == fitted


@pytest.mark.parametrize("fit", [calibration.normalise, calibration.contextual, calibration.batch])
def test_nothing_cannot_be_calibrated(fit: object) -> None:
    assert callable(fit)
    for scores in (np.zeros((0, 2)), np.zeros((2, 0)), np.zeros(3), np.array([[np.nan, 0.0]])):
        with pytest.raises(InputError):
            fit(scores)


def test_another_number_of_labels_is_refused() -> None:
    with pytest.raises(InputError, match=r"2 labels.*of 3"):
        calibration.apply(calibration.batch(BIASED), np.zeros((1, 3)))
    with pytest.raises(InputError, match="target prior"):
        calibration.batch(BIASED, [1, 1, 1])


def _sampled(temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 20,000 texts that are ``temperature`` times too large, and the labels as targets."""
    random = np.random.default_rng(0)
    honest = random.normal(size=(20_000, 4)) * 2
    odds = calibration.normalise(honest)
    labels = (odds.cumsum(axis=1) > random.random((len(odds), 1))).argmax(axis=1)
    return honest * temperature, np.eye(4)[labels]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_takes_off_what_is_too_sure(temperature: float) -> None:
    scores, targets = _sampled(temperature)
    assert calibration.fit_temperature(scores, targets) == pytest.approx(temperature, rel=0.05)


def test_a_temperature_changes_no_label() -> None:
    scores = np.random.default_rng(1).normal(size=(1000, 7)).astype(np.float32)
    for temperature in (0.25, 1.7, 32.0):
        fitted = calibration.Calibration(temperature=temperature)
        assert (calibration.apply(fitted, scores).argmax(axis=1) == scores.argmax(axis=1)).all()
    cooler = np.exp(calibration.apply(calibration.Calibration(temperature=2.0), BIASED))
    np.testing.assert_allclose(cooler, calibration.normalise(BIASED / 2))


def test_few_texts_that_are_all_right_do_not_make_certain() -> None:
    right = np.log(np.array([[0.999, 0.001]] * 8))
    fitted = calibration.fit_temperature(right, calibration.smoothed_targets(np.zeros(8, dtype=int), 2))
    assert calibration.normalise(right / fitted).max() == pytest.approx(9 / 10, abs=0.01)
    with pytest.raises(InputError, match="above 0"):
        calibration.Calibration(temperature=0.0)


def test_a_calibration_from_before_there_were_temperatures_has_one_of_one() -> None:
    import msgspec

    stored = b'{"method": "batch", "log_prior": [-0.5, -1.0]}'
    assert msgspec.json.decode(stored, type=calibration.Calibration).temperature == 1.0


def test_parts_of_a_text_count_as_much_as_they_say() -> None:
    parts = np.array([[0.9, 0.1], [0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [0.7, 0.3], [0.5, 0.5]])
    rows = calibration.combine_parts(parts, [2, 2, 1, 1])
    assert rows == pytest.approx(np.array([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3], [0.5, 0.5]]), abs=1e-6)
    sure, unsure = calibration.combine_parts(np.array([[0.99, 0.01], [0.3, 0.7]]), [2])[0], 0.5 * (0.99 + 0.3)
    assert sure[0] > unsure and sum(sure) == pytest.approx(1.0)

"""Metrics of a classifier, from label probabilities: accuracy with its interval, macro-F1 and calibration error.

Every function here raises ValueError on an empty input: a metric of nothing is not zero.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fourshot.pipeline.scores import Scores

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the standard normal distribution
NUM_BINS = 15  # Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 5


def score_predictions(
    probabilities: ArrayLike,
    gold_indices: ArrayLike,
    *,
    seconds: float = 0.0,
    prompt_tokens: int = 0,
    cached_tokens: int = 0,
) -> Scores:
    """Compare label probabilities with the gold labels.

    ``probabilities`` is [n, num_labels] and its rows sum to one; ``gold_indices`` is [n], positions in the columns.
    The prediction is the likeliest label; of equally likely ones, the first. ``seconds``, ``prompt_tokens`` and
    ``cached_tokens`` are the cost of the complete split and are passed on unchanged.
    Raises ValueError for an empty input, other shapes, rows that are not distributions, and labels out of range.
    """
    rows, gold = _checked(probabilities, gold_indices)
    predicted = rows.argmax(axis=1)
    correct = predicted == gold
    return Scores(
        n=len(gold),
        accuracy=float(correct.mean()),
        macro_f1=macro_f1(predicted, gold),
        ece=expected_calibration_error(rows.max(axis=1), correct),
        interval=wilson_interval(int(correct.sum()), len(gold)),
        seconds=seconds,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
    )


def macro_f1(predicted: ArrayLike, gold: ArrayLike) -> float:
    """Return the unweighted mean F1 of all labels that occur in ``predicted`` or ``gold``, both [n]."""
    predicted, gold = np.asarray(predicted), np.asarray(gold)
    if gold.size == 0 or predicted.shape != gold.shape:
        raise ValueError(f"macro-F1 needs two equally long, non-empty lists, got {predicted.shape} and {gold.shape}")
    per_label = []
    for label in np.union1d(predicted, gold):
        hits = np.sum((predicted == label) & (gold == label))
        per_label.append(2 * hits / (np.sum(predicted == label) + np.sum(gold == label)))
    return float(np.mean(per_label))


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, num_bins: int = NUM_BINS) -> float:
    """Return the mean distance of confidence and accuracy over equal-width bins (low, high], weighted by their share.

    ``confidence`` [n] is the probability of the predicted label, ``correct`` [n] whether it was right.
    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if confidence.size == 0 or confidence.shape != correct.shape:
        raise ValueError(f"ECE needs two equally long, non-empty lists, got {confidence.shape} and {correct.shape}")
    edges = np.linspace(0.0, 1.0, num_bins + 1)[1:-1]
    bins = np.searchsorted(edges, confidence, side="left")
    # |accuracy - confidence| of a bin times its share of n is |sum of differences in it| / n.
    gaps = np.bincount(bins, weights=correct - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / confidence.size)


def wilson_interval(num_correct: float, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion. It is inside [0, 1] also for 0 and n correct.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    if n < 1 or not 0 <= num_correct <= n:
        raise ValueError(f"an interval needs n >= 1 and 0 <= correct <= n, got {num_correct} of {n}")
    share, z = num_correct / n, Z_95
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _checked(probabilities: ArrayLike, gold_indices: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rows, gold = np.asarray(probabilities, dtype=np.float64), np.asarray(gold_indices)
    if rows.size == 0 or gold.size == 0:
        raise ValueError(f"nothing to score: got probabilities {rows.shape} and labels {gold.shape}")
    if rows.ndim != 2 or gold.shape != rows.shape[:1]:
        raise ValueError(f"expected [n, num_labels] probabilities and [n] labels, got {rows.shape} and {gold.shape}")
    if not np.issubdtype(gold.dtype, np.integer) or gold.min() < 0 or gold.max() >= rows.shape[1]:
        raise ValueError(f"gold labels must be integers from 0 to {rows.shape[1] - 1}, got {gold.dtype} {gold[:5]}...")
    # Written so that a NaN fails it. The slack is that of bfloat16 sums.
    bad = ~((rows >= 0).all(axis=1) & (np.abs(rows.sum(axis=1) - 1.0) <= 1e-2))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"row {row} is not a distribution: {rows[row]} sums to {rows[row].sum():.4f}; normalise first")
    return rows, gold.astype(np.int64)

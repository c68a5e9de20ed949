"""Means over repeats with their intervals, and ratios of what was measured in the same repeat."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import msgspec

CONFIDENCE = 0.95


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over repeats, and the 95 % interval of Student's t; without an interval where there is one repeat."""

    mean: float
    low: float | None = None
    high: float | None = None
    repeats: int = 1


def estimate(values: Sequence[float], *, signed: bool = False) -> Estimate:
    """``signed``: what is estimated may be below nothing although no value is. Raises ValueError for no values."""
    if not values:
        raise ValueError("an estimate of nothing")
    mean = fmean(values)
    if len(values) == 1:
        return Estimate(mean=mean)
    half = students_t((1 + CONFIDENCE) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    least = 0.0 if min(values) >= 0 and not signed else -math.inf  # no rate or time is below nothing
    return Estimate(mean=mean, low=max(least, mean - half), high=mean + half, repeats=len(values))


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Geometric mean of the repeats' own ratios: what slowed one repeat slowed both sides of it.

    Raises ValueError for no values, values of 0 or less, and sides of different lengths.
    """
    logs = [math.log(one / other) for one, other in zip(above, below, strict=True)]
    found = estimate(logs, signed=True)
    return Estimate(
        mean=math.exp(found.mean),
        low=None if found.low is None else math.exp(found.low),
        high=None if found.high is None else math.exp(found.high),
        repeats=found.repeats,
    )


def students_t(share: float, freedom: int) -> float:
    """The value that Student's t with ``freedom`` degrees of freedom stays below with probability ``share``."""
    from scipy.stats import t  # type: ignore[import-untyped]

    return float(t.ppf(share, freedom))

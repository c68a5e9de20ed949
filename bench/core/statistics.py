"""Means over repeats with their intervals, ratios of what was measured in the same repeat, percentiles."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import msgspec
import numpy as np

CONFIDENCE = 0.95


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over repeats, and the 95 % interval of Student's t; without an interval where there is one repeat."""

    mean: float
    low: float | None = None
    high: float | None = None
    repeats: int = 1


def estimate(values: Sequence[float], *, signed: bool = False, most: float = math.inf) -> Estimate:
    """``signed``: what is estimated may be below nothing although no value is. ``most``: it cannot be above that.

    Raises ValueError for no values.
    """
    if not values:
        raise ValueError("an estimate of nothing")
    mean = fmean(values)
    if len(values) == 1:
        return Estimate(mean=mean)
    from scipy.stats import t  # type: ignore[import-untyped]

    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    least = 0.0 if min(values) >= 0 and not signed else -math.inf  # no rate or time is below nothing
    return Estimate(mean=mean, low=max(least, mean - half), high=min(most, mean + half), repeats=len(values))


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Geometric mean of the repeats' own ratios: what slowed one repeat slowed both sides of it.

    Raises ValueError for no values, values of 0 or less, and sides of different lengths.
    """
    of_logs = estimate(
        [math.log(numerator / denominator) for numerator, denominator in zip(above, below, strict=True)], signed=True
    )
    low, high = (None if bound is None else math.exp(bound) for bound in (of_logs.low, of_logs.high))
    return Estimate(mean=math.exp(of_logs.mean), low=low, high=high, repeats=of_logs.repeats)


def with_values(values: Sequence[float]) -> dict[str, Any]:
    """An estimate and the repeats' own values, as a result has them."""
    return {**msgspec.to_builtins(estimate(values)), "values": list(values)}


def with_interval(estimated: Estimate | Mapping[str, Any] | None, digits: int = 1) -> str:
    """An estimate as a table has it: the mean, and its interval where there is one; a dash where there is nothing."""
    if estimated is None:
        return "-"
    fields = msgspec.to_builtins(estimated)
    mean, low, high = fields["mean"], fields.get("low"), fields.get("high")
    return f"{mean:,.{digits}f}" + ("" if low is None else f" ({low:,.{digits}f} to {high:,.{digits}f})")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``values`` do not exceed. Raises ValueError for no values."""
    if not values:
        raise ValueError("a percentile of nothing")
    return float(np.quantile(values, share, method="inverted_cdf"))

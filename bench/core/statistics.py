"""Means over repeats with intervals, ratios of values from the same repeat, and percentiles."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import msgspec
import numpy as np

CONFIDENCE = 0.95


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over repeats with the 95 % interval of Student's t; a single repeat has no interval."""

    mean: float
    low: float | None = None
    high: float | None = None
    repeats: int = 1


def estimate(values: Sequence[float], *, signed: bool = False, most: float = math.inf) -> Estimate:
    """Return the mean of ``values`` with its interval. Raises ValueError if there are none.

    The interval is cut off at 0 if no value is negative, unless the quantity is ``signed``. It is cut off at ``most``.
    """
    if not values:
        raise ValueError("an estimate of nothing")
    mean = fmean(values)
    if len(values) == 1:
        return Estimate(mean=mean)
    from scipy.stats import t  # type: ignore[import-untyped]

    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    least = 0.0 if min(values) >= 0 and not signed else -math.inf  # rates and times are not negative
    return Estimate(mean=mean, low=max(least, mean - half), high=min(most, mean + half), repeats=len(values))


def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Return the geometric mean of ``above / below``, repeat by repeat, with its interval.

    Pairing removes what slowed both sides of a repeat. Raises ValueError for no values, ratios of 0 or less,
    and sides of different lengths, and ZeroDivisionError for a 0 in ``below``.
    """
    of_logs = estimate(
        [math.log(numerator / denominator) for numerator, denominator in zip(above, below, strict=True)], signed=True
    )
    low, high = (None if bound is None else math.exp(bound) for bound in (of_logs.low, of_logs.high))
    return Estimate(mean=math.exp(of_logs.mean), low=low, high=high, repeats=of_logs.repeats)


def with_values(values: Sequence[float]) -> dict[str, Any]:
    """Return the fields of the values' `estimate` and the values themselves, for a result file."""
    return {**msgspec.to_builtins(estimate(values)), "values": list(values)}


def with_interval(estimated: Estimate | Mapping[str, Any] | None, digits: int = 1) -> str:
    """Format an estimate for a table: the mean, and the interval if there is one; a dash for None."""
    if estimated is None:
        return "-"
    fields = msgspec.to_builtins(estimated)
    mean, low, high = fields["mean"], fields.get("low"), fields.get("high")
    return f"{mean:,.{digits}f}" + ("" if low is None else f" ({low:,.{digits}f} to {high:,.{digits}f})")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of ``values`` that at least ``share`` of them do not exceed. Raises ValueError for none."""
    if not values:
        raise ValueError("a percentile of nothing")
    return float(np.quantile(values, share, method="inverted_cdf"))

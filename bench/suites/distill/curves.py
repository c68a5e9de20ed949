"""From cells to curves, and where a curve turns."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec

from fourshot.bench.core.statistics import estimate
from fourshot.bench.suites.distill.cells import NONE, TEACHER

Row = dict[str, Any]


def curves_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """By task, real data and strategy: accuracy in per cent by amount, mean and interval over seeds; 0 is in all."""
    curves = []
    for (task, real, strategy), curve_rows in _by_curve(rows).items():
        points = [
            {"amount": amount, **msgspec.to_builtins(estimate([100 * row["accuracy"] for row in cells]))}
            for amount, cells in _by_amount(curve_rows).items()
        ]
        curves.append({"task": task, "real": real, "strategy": strategy, "points": points})
    return curves


def turning_points(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """By real data and strategy, over tasks and seeds: the smallest amount that no larger one is better than.

    Amounts are compared in pairs of one task and seed; better is a gain whose 95 % interval (Student's t) lies above 0.
    """
    pooled: dict[tuple[str, str], list[Row]] = {}
    for (_, real, strategy), curve_rows in _by_curve(rows).items():
        pooled.setdefault((real, strategy), []).extend(curve_rows)
    turns = []
    for (real, strategy), curve_rows in pooled.items():
        amounts = list(_by_amount(curve_rows))
        if len(amounts) < 2:
            continue
        turn = next(
            amount
            for place, amount in enumerate(amounts)
            if not any(
                (_gain(curve_rows, amount, larger) or {}).get("low", -1.0) > 0 for larger in amounts[place + 1 :]
            )
        )
        gain, change_after = _gain(curve_rows, amounts[0], turn), _gain(curve_rows, turn, amounts[-1])
        turns.append({"real": real, "strategy": strategy, "no_gain_beyond": turn, "gain": gain, "then": change_after})
    return turns


def _gain(rows: Sequence[Row], few: int, many: int) -> dict[str, Any] | None:
    """Points of accuracy gained from ``few`` to ``many`` texts; None for one amount and for fewer than two pairs."""
    by_place: dict[tuple[str, int], dict[int, float]] = {}
    for row in rows:
        by_place.setdefault((row["task"], row["seed"]), {})[row["amount"]] = 100 * row["accuracy"]
    gains = [cells[many] - cells[few] for cells in by_place.values() if few in cells and many in cells]
    if few == many or len(gains) < 2:
        return None
    gain: dict[str, Any] = msgspec.to_builtins(estimate(gains, signed=True))
    return gain


def _by_curve(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Cells of each task, real data and strategy, with those of no texts, which all strategies have in common."""
    curves: defaultdict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        curves[row["task"], row["real"], row["strategy"]].append(row)
    return {
        (task, real, strategy): [*curves.get((task, real, NONE), ()), *curve_rows]
        for (task, real, strategy), curve_rows in curves.items()
        if strategy not in (NONE, TEACHER)
    }


def _by_amount(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Ascending."""
    ordered = sorted(rows, key=lambda row: row["amount"])
    return {amount: list(cells) for amount, cells in groupby(ordered, key=lambda row: row["amount"])}

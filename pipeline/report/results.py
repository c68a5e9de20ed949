"""The top of the report: the headline with the accuracy, and all methods on a common axis."""

from typing import Any

from fourshot.pipeline.report.data import MethodRow, ReportData
from fourshot.pipeline.report.text import count, per_cent

MIN_SPAN = 0.2  # of the accuracy axis, so that one narrow interval does not look wide


def headline(data: ReportData) -> dict[str, str] | None:
    """Return the accuracy, a sentence that explains it, and a comparison with other methods; None without rows."""
    row = headline_row(data)
    if row is None:
        return None
    texts = f"{count(data.num_test)} test texts" if data.num_test else "the test texts"
    sentence = f"of {texts} classified correctly by {row.display_name}"
    if row.real_examples:
        learnt = [f"{count(row.real_examples)} labelled examples"]
        if row.unlabelled_examples:
            learnt.append(f"{count(row.unlabelled_examples)} texts with the labels of annotators")
        if row.synthetic_examples:
            learnt.append(f"{count(row.synthetic_examples)} synthetic ones")
        sentence += f", from {', '.join(learnt[:-1])} and {learnt[-1]}" if learnt[1:] else f", from {learnt[0]}"
    details = []
    if row.interval:
        details.append(f"95\u00a0% interval {per_cent(row.interval[0])} to {per_cent(row.interval[1])}\u00a0%")
    if len(row.seed_accuracies) > 1:
        details.append(f"mean of {len(row.seed_accuracies)} seeds")
    if details:
        sentence += f" ({', '.join(details)})"
    return {
        "number": f"{per_cent(row.accuracy)}\u00a0%",
        "sentence": f"{sentence}.",
        "comparison": " ".join(filter(None, (_comparison(data, row), _best_other(data, row)))),
    }


def shown_parts(data: ReportData) -> dict[str, bool]:
    """Return which columns and parts to show: columns that a method fills, and the parts on synthetic texts.

    The latter are left out for students that were trained on none.
    """
    return {
        "prompt_tokens": any(row.prompt_tokens_per_example is not None for row in data.methods),
        "annotated": any(row.unlabelled_examples for row in data.methods),
        "synthetic": not data.facts or any(row.synthetic_examples for row in data.methods),
    }


def headline_row(data: ReportData) -> MethodRow | None:
    """Return the row of the headline; None without rows.

    Raises ValueError where `ReportData.headline_method` names none of the rows.
    """
    if not data.methods:
        return None
    by_key = {row.method: row for row in data.methods}
    if data.headline_method:
        if data.headline_method not in by_key:
            raise ValueError(f"headline_method is {data.headline_method!r}; the rows are {sorted(by_key)}")
        return by_key[data.headline_method]
    return by_key.get("fourshot", data.methods[-1])


def accuracy_figure(data: ReportData) -> dict[str, Any] | None:
    """Return a common axis for the methods: its ticks, and ``place``, which maps accuracy to per cent of the axis.

    It reaches from just below the smallest to just above the largest value that is drawn, within 0 .. 1. None without
    methods.
    """
    from matplotlib.ticker import MaxNLocator

    if not data.methods:
        return None
    drawn = [value for row in data.methods for value in (row.accuracy, *row.seed_accuracies, *(row.interval or ()))]
    spare = max(0.0, MIN_SPAN - (max(drawn) - min(drawn))) / 2
    ticks = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(min(drawn) - spare, max(drawn) + spare)
    low, high = max(0.0, ticks[0]), min(1.0, ticks[-1])
    return {
        "ticks": [tick for tick in ticks if low <= tick <= high],
        "place": lambda value: 100 * (value - low) / (high - low),
        "has_intervals": any(row.interval for row in data.methods),
        "has_seeds": any(len(row.seed_accuracies) > 1 for row in data.methods),
    }


def _comparison(data: ReportData, row: MethodRow) -> str:
    """Compare with in-context learning, which needs the same examples but has them in every prompt; "" without it."""
    icl = next((icl for icl in data.methods if icl.method == "icl"), None)
    if icl is None or icl is row:
        return ""
    words = _gap(icl, row)
    if row.prompt_tokens_per_example and icl.prompt_tokens_per_example:
        row_tokens, icl_tokens = count(row.prompt_tokens_per_example), count(icl.prompt_tokens_per_example)
        words += f", with {icl_tokens} prompt tokens per text instead of {row_tokens}"
    return f"{words}."


def _best_other(data: ReportData, row: MethodRow) -> str:
    """Return a sentence on the best other method that needs no more labelled texts than ``row``; "" if there is none.

    In-context learning has a sentence of its own.
    """
    others = [
        other
        for other in data.methods
        if other is not row and other.method != "icl" and (other.real_examples or 0) <= (row.real_examples or 0)
    ]
    best = max(others, key=lambda other: other.accuracy, default=None)
    if best is None:
        return ""
    words = _gap(best, row)
    if best.accuracy <= row.accuracy:
        return f"{words}."
    if row.interval and best.accuracy <= row.interval[1]:
        return f"{words}, which may be chance; more test texts would tell."
    return f"{words}: on these texts it is the better classifier."


def _gap(other: MethodRow, row: MethodRow) -> str:
    """Return the accuracy of ``other``, and how far it is from that of ``row``."""
    points = 100 * (other.accuracy - row.accuracy)
    gap = f"{abs(points):.1f} points {'higher' if points > 0 else 'lower'}" if round(points, 1) else "the same"
    return f"{other.display_name}: {per_cent(other.accuracy)}\u00a0%, {gap}"

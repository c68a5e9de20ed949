"""The top of the report: the sentence with the number, and the methods on a common axis."""

from typing import Any

from fourshot.pipeline.report.data import MethodRow, ReportData
from fourshot.pipeline.report.text import count, per_cent

MIN_SPAN = 0.2  # of the accuracy axis, so that one narrow interval does not look wide


def headline(data: ReportData) -> dict[str, str] | None:
    """The number, what it is, and what it is to be compared with; None where nothing was measured."""
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
        "comparison": " ".join(filter(None, (_comparison(data, row), _better(data, row)))),
    }


def shown_parts(data: ReportData) -> dict[str, bool]:
    """Columns that some method fills, and the parts on synthetic texts, which a student may have learnt none of."""
    return {
        "prompt_tokens": any(row.prompt_tokens_per_example is not None for row in data.methods),
        "annotated": any(row.unlabelled_examples for row in data.methods),
        "synthetic": not data.facts or any(row.synthetic_examples for row in data.methods),
    }


def headline_row(data: ReportData) -> MethodRow | None:
    """The row the report is about. Raises ValueError where `ReportData.headline_method` names none of the rows."""
    if not data.methods:
        return None
    by_key = {row.method: row for row in data.methods}
    if data.headline_method:
        if data.headline_method not in by_key:
            raise ValueError(f"headline_method is {data.headline_method!r}; the rows are {sorted(by_key)}")
        return by_key[data.headline_method]
    return by_key.get("fourshot", data.methods[-1])


def accuracy_figure(data: ReportData) -> dict[str, Any] | None:
    """A common axis for the methods: its ticks, and ``place`` from an accuracy to per cent of the axis.

    It reaches from just below the smallest to just above the largest value that is drawn, inside 0 .. 1.
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
    """Against in-context learning, which asks for the same examples but carries them in every prompt."""
    icl = next((icl for icl in data.methods if icl.method == "icl"), None)
    if icl is None or icl is row:
        return ""
    points = 100 * (icl.accuracy - row.accuracy)
    gap = f"{abs(points):.1f} points {'higher' if points > 0 else 'lower'}" if round(points, 1) else "the same"
    words = f"{icl.display_name}: {per_cent(icl.accuracy)}\u00a0%, {gap}"
    if row.prompt_tokens_per_example and icl.prompt_tokens_per_example:
        row_tokens, icl_tokens = count(row.prompt_tokens_per_example), count(icl.prompt_tokens_per_example)
        words += f", with {icl_tokens} prompt tokens per text instead of {row_tokens}"
    return f"{words}."


def _better(data: ReportData, row: MethodRow) -> str:
    """The best of the other methods that make do with as few labelled texts, where it is better than this one."""
    others = [
        other
        for other in data.methods
        if other is not row and other.method != "icl" and (other.real_examples or 0) <= (row.real_examples or 0)
    ]
    best = max(others, key=lambda other: other.accuracy, default=row)
    if best.accuracy <= row.accuracy:
        return ""
    points = 100 * (best.accuracy - row.accuracy)
    words = f"{best.display_name}: {per_cent(best.accuracy)}\u00a0%, {points:.1f} points higher"
    if row.interval and best.accuracy <= row.interval[1]:
        return f"{words}, which may be chance; more test texts would tell."
    return f"{words}: on these texts it is the better classifier."

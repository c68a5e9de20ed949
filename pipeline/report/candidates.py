"""What became of the synthetic texts: counts per class and reason, and examples with their probabilities."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from fourshot.pipeline.report.data import ReportData
from fourshot.pipeline.report.plots import share_bar, stacked_bar
from fourshot.pipeline.report.selection import Judged, pick_examples
from fourshot.pipeline.report.text import REASON_NAMES, per_cent

NUM_EXAMPLES = 12  # kept, and as many rejected
NUM_PROBABILITIES = 3  # shown per example


def reason_figure(data: ReportData) -> dict[str, Any] | None:
    """One bar per class and the reasons that occur; None where no candidate was judged."""
    counts = _reason_counts(data)
    longest = max((sum(by_reason.values()) for by_reason in counts.values()), default=0)
    if not longest:
        return None
    present = [reason for reason in REASON_NAMES if any(by_reason.get(reason) for by_reason in counts.values())]
    names = {REASON_NAMES[reason]: f"r-{reason}" for reason in present}
    rows = []
    for label, by_reason in counts.items():
        parts = {REASON_NAMES[reason]: by_reason[reason] for reason in present if by_reason.get(reason)}
        total = sum(by_reason.values())
        kept = by_reason.get("kept", 0)
        words = f"{label}, {total} candidates: " + ", ".join(f"{number} {name}" for name, number in parts.items())
        rows.append(
            {
                "label": label,
                "total": total,
                "kept": kept,
                "kept_share": per_cent(kept / total) if total else per_cent(None),
                "bar": stacked_bar(parts, names, longest, words),
                "counts": [by_reason.get(reason, 0) for reason in present],
            }
        )
    return {
        "rows": rows,
        "legend": names,
        "total": sum(row["total"] for row in rows),
        "kept": sum(row["kept"] for row in rows),
    }


def example_cards(data: ReportData, judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Up to twelve of ``judged``, spread over classes and reasons, each with the likeliest labels and its own."""
    cards = []
    for candidate, verdict in pick_examples(judged, NUM_EXAMPLES, data.seed):
        likeliest = sorted(verdict.probabilities, key=lambda name: -verdict.probabilities[name])
        shown = likeliest[:NUM_PROBABILITIES]
        if candidate.label in likeliest and candidate.label not in shown:
            shown[-1] = candidate.label
        cards.append(
            {
                "id": candidate.id,
                "text": candidate.text,
                "label": candidate.label,
                "reason": REASON_NAMES[verdict.reason],
                "reason_class": f"r-{verdict.reason}",
                "probabilities": [
                    {
                        "name": name,
                        "value": f"{verdict.probabilities[name]:.2f}",
                        "bar": share_bar(verdict.probabilities[name], "own" if name == candidate.label else "other"),
                        "intended": name == candidate.label,
                    }
                    for name in shown
                ],
            }
        )
    return cards


def _reason_counts(data: ReportData) -> dict[str, dict[str, int]]:
    """Classes in the task's order. Raises ValueError for a reason that is not one."""
    counts: dict[str, dict[str, int]] = data.reason_counts
    if not counts:
        tally: dict[str, Counter[str]] = defaultdict(Counter)
        for candidate, verdict in (*data.kept, *data.rejected):
            tally[candidate.label][verdict.reason] += 1
        counts = {label: dict(by_reason) for label, by_reason in tally.items()}
    unknown = {reason for by_reason in counts.values() for reason in by_reason} - REASON_NAMES.keys()
    if unknown:
        raise ValueError(f"unknown reasons {sorted(unknown)}; allowed are {list(REASON_NAMES)}")
    order = {name: position for position, name in enumerate(data.task.label_names)}
    return {label: counts[label] for label in sorted(counts, key=lambda label: order.get(label, len(order)))}

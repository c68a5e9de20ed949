"""The verdicts on synthetic texts: counts per class and reason, and examples with their probabilities."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from fourshot.pipeline.faults import shorten
from fourshot.pipeline.report.classes import FEWEST_KEPT, has_many_classes
from fourshot.pipeline.report.data import ReportData
from fourshot.pipeline.report.text import REASON_NAMES, per_cent
from fourshot.pipeline.synthesis.types import Candidate, Verdict

NUM_EXAMPLES = 12  # kept, and as many rejected
NUM_PROBABILITIES = 3  # shown per example

Judged = tuple[Candidate, Verdict]


def reason_figure(data: ReportData) -> dict[str, Any] | None:
    """Return one row of counts per class, and the reasons that occur; None where no candidate was judged.

    Of many classes, those with the fewest kept texts come first, and only `FEWEST_KEPT` of them get a bar.
    """
    counts = _reason_counts(data)
    present = [reason for reason in REASON_NAMES if any(by_reason.get(reason) for by_reason in counts.values())]
    if not present:
        return None
    rows: list[dict[str, Any]] = []
    for label, by_reason in counts.items():
        total, kept = sum(by_reason.values()), by_reason.get("kept", 0)
        rows.append(
            {
                "label": label,
                "total": total,
                "kept": kept,
                "kept_share": per_cent(kept / total if total else None),
                "counts": {REASON_NAMES[reason]: by_reason.get(reason, 0) for reason in present},
            }
        )
    fewest = sorted(rows, key=lambda row: row["kept"])
    return {
        "rows": fewest if has_many_classes(data) else rows,
        "drawn": fewest[:FEWEST_KEPT] if has_many_classes(data) else rows,
        "legend": {REASON_NAMES[reason]: f"r-{reason}" for reason in present},
        "longest": max(row["total"] for row in rows),
        "total": sum(row["total"] for row in rows),
        "kept": sum(row["kept"] for row in rows),
    }


def short_classes(data: ReportData) -> str:
    """Return a sentence on the classes with fewer texts than requested, where that is allowed; "" if none."""
    kept = Counter(candidate.label for candidate, _ in data.kept)
    short = [f"{name} with {kept[name]:,}" for name in data.task.label_names if kept[name] < data.least_texts]
    if not (short and reason_figure(data)):
        return ""
    return f"Classes with fewer than the requested {data.least_texts:,} texts: {shorten(short)}."


def own_texts(data: ReportData) -> str:
    """Return the sentences on the user's own texts; "" where there are none."""
    total = sum(data.unlabelled.values()) + data.labelled
    if not total:
        return ""
    left_out = [
        f"{number:,} {REASON_NAMES[reason]}"
        for reason in REASON_NAMES
        if reason != "kept" and (number := data.unlabelled.get(reason, 0))
    ]
    kept = data.unlabelled.get("kept", 0)
    learnt = f"Of {total:,} texts without labels, {kept:,} were kept with labels from the annotators"
    learnt += f", and {data.labelled:,} with labels from a person." if data.labelled else "."
    return f"{learnt} Left out: {', '.join(left_out)}." if left_out else learnt


def review(data: ReportData) -> str:
    """Return a sentence on what a person changed; "" where they changed nothing."""
    counts = ", ".join(f"{number:,} {change}" for change, number in sorted(data.reviewed.items()))
    return f"A person reviewed the shots and the texts: {counts}." if counts else ""


def example_cards(data: ReportData, judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return up to twelve of ``judged``, spread over classes and reasons, with the likeliest labels and its own."""
    cards = []
    for candidate, verdict in pick_examples(judged, NUM_EXAMPLES, data.seed):
        likeliest = sorted(verdict.probabilities, key=lambda name: -verdict.probabilities[name])
        by_person = verdict.predicted != "" and not verdict.probabilities  # as `corrected_pairs` leaves it
        shown, intended_label = (
            likeliest[:NUM_PROBABILITIES],
            candidate.label if by_person or not candidate.mixed else "",
        )
        if intended_label in likeliest and intended_label not in shown:
            shown[-1] = intended_label
        cards.append(
            {
                "text": candidate.text,
                "label": intended_label,  # "": the prompt requested no class
                "by_person": by_person,  # the label is a person's; the intended class is no longer known
                "reason": REASON_NAMES[verdict.reason],
                "reason_class": f"r-{verdict.reason}",
                "probabilities": {name: verdict.probabilities[name] for name in shown},
            }
        )
    return cards


def pick_examples(judged: Sequence[Judged], count: int, seed: int) -> list[Judged]:
    """Return up to ``count`` pairs, ordered by reason, class and id; the same ones for the same seed.

    Each is picked from the class and reason with the fewest picks so far, so frequent reasons do not crowd out rare
    ones.
    """
    groups: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for pair in random.Random(seed).sample(judged, len(judged)):
        groups[pair[1].reason, pair[0].label].append(pair)
    shown: Counter[tuple[str, str]] = Counter()
    picked: list[Judged] = []
    while groups and len(picked) < count:
        reason, label = group = min(
            groups, key=lambda key: shown[key] + shown["reason", key[0]] + shown["label", key[1]]
        )
        picked.append(groups[group].pop())
        shown.update([group, ("reason", reason), ("label", label)])
        if not groups[group]:
            del groups[group]
    return sorted(picked, key=lambda pair: (pair[1].reason, pair[0].label, pair[0].id))


def _reason_counts(data: ReportData) -> dict[str, dict[str, int]]:
    """Return counts by class and reason, classes in the task's order. Raises ValueError for an unknown reason."""
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

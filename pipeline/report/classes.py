"""Which classes are confused with which: a confusion matrix, or the worst pairs where there are many classes."""

from collections import Counter
from typing import Any

from fourshot.pipeline.report.data import ReportData

MANY_CLASSES = 24  # with more, bars of all classes and a complete confusion matrix cannot be read
WORST_PAIRS = 20
FEWEST_KEPT = 12  # classes in the figure of verdicts, where there are many


def has_many_classes(data: ReportData) -> bool:
    return len(data.task.labels) > MANY_CLASSES


def confusion_matrix(data: ReportData) -> dict[str, Any] | None:
    """Return the number of predictions by true and predicted class; None for many classes or no predictions.

    Each row is a true class, with a cell per predicted class, both in the task's order. Shares are of the texts of the
    row (recall on the diagonal); ``precisions`` are of the predictions of each column.
    """
    if not data.answers or has_many_classes(data):
        return None
    names = data.task.label_names
    counts = Counter(data.answers)
    of_class, answered = (Counter(side) for side in zip(*data.answers, strict=True))
    rows = [
        {
            "label": gold,
            "texts": of_class[gold],
            "recall": counts[gold, gold] / of_class[gold] if of_class[gold] else None,
            "cells": [
                {
                    "count": counts[gold, predicted],
                    "share": counts[gold, predicted] / max(1, of_class[gold]),
                    "is_right": gold == predicted,
                }
                for predicted in names
            ],
        }
        for gold in names
    ]
    return {
        "rows": rows,
        "precisions": [counts[name, name] / answered[name] if answered[name] else None for name in names],
    }


def class_tables(data: ReportData) -> dict[str, Any] | None:
    """Return the most confused pairs, and every class, the worst first; None for few classes or no predictions.

    Shares are of the texts of the true class (recall), and of the texts with this prediction (precision).
    """
    if not data.answers or not has_many_classes(data):
        return None
    confused = Counter((gold, predicted) for gold, predicted in data.answers if gold != predicted)
    of_class, answered = (Counter(side) for side in zip(*data.answers, strict=True))
    right = Counter(gold for gold, predicted in data.answers if gold == predicted)
    pairs = sorted(confused.items(), key=lambda item: (-item[1], -item[1] / of_class[item[0][0]], item[0]))
    taken_for: dict[str, str] = {}
    for gold, predicted in (pair for pair, _ in reversed(pairs)):  # the most frequent one stays
        taken_for[gold] = predicted
    worst = sorted(
        data.task.label_names,
        key=lambda name: (not of_class[name], right[name] / max(1, of_class[name]), -of_class[name], name),
    )
    classes = [
        {
            "label": name,
            "texts": of_class[name],
            "right": right[name],
            "recall": right[name] / of_class[name] if of_class[name] else None,
            "precision": right[name] / answered[name] if answered[name] else None,
            "taken_for": taken_for.get(name, ""),
        }
        for name in worst
    ]
    return {
        "pairs": [
            {"label": gold, "said": predicted, "count": count, "share": count / of_class[gold]}
            for (gold, predicted), count in pairs[:WORST_PAIRS]
        ],
        "num_pairs": len(pairs),
        "mistakes": confused.total(),
        "shown": sum(count for _, count in pairs[:WORST_PAIRS]),
        "classes": classes,
    }

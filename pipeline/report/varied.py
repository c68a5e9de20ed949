"""Real against synthetic texts: distinct tri-grams and word clouds."""

import random
from collections.abc import Sequence
from typing import Any

from fourshot.pipeline.report.cloud import word_cloud
from fourshot.pipeline.report.data import ReportData
from fourshot.pipeline.report.figures import Curve, line_plot
from fourshot.pipeline.synthesis.diversity import unique_trigram_curve, word_frequencies

MAX_TEXTS = 2000  # per side and cloud; more would cost seconds and change no picture visibly
NUM_POINTS = 40  # per curve
LONGEST_WORD = 40  # characters: a word without room, such as a key in a text, would end the cloud
MAX_CLASS_CLOUDS = 8  # with more classes there are clouds of all classes together only


def trigram_figure(data: ReportData) -> dict[str, Any] | None:
    """Return the tri-gram curves up to the number of texts that all sides have, and the same comparison per class.

    None without texts.
    """
    sides = {
        name: texts for name, texts in (("real", _all(data, "real")), ("synthetic", _all(data, "synthetic"))) if texts
    }
    if not sides:
        return None
    most = min(len(texts) for texts in sides.values())
    sizes = sorted({round(most * step / NUM_POINTS) for step in range(NUM_POINTS + 1)})
    curves = [
        Curve(name, list(zip(sizes, unique_trigram_curve(texts, sizes), strict=True))) for name, texts in sides.items()
    ]
    return {
        "plot": line_plot(curves, x_name="number of texts (mean over all orders)", y_name="distinct word tri-grams"),
        "names": [curve.name for curve in curves],
        "most": most,
        "at_most": {curve.name: curve.points[-1][1] for curve in curves},
        "classes": [row for row in (_class_row(data, label) for label in data.task.label_names) if row],
    }


def cloud_figures(data: ReportData) -> list[dict[str, Any]]:
    """Return pairs of clouds: all classes first, then each class if they are few. A side without words is None."""
    pairs = [_cloud_pair("all classes", _all(data, "real"), _all(data, "synthetic"))]
    if 1 < len(data.task.labels) <= MAX_CLASS_CLOUDS:
        for label in data.task.label_names:
            pairs.append(_cloud_pair(label, data.real_texts.get(label, ()), data.synthetic_texts.get(label, ())))
    return [pair for pair in pairs if pair["real"] or pair["synthetic"]]


def _cloud_pair(name: str, real: Sequence[str], synthetic: Sequence[str]) -> dict[str, Any]:
    pair: dict[str, Any] = {"name": name}
    for side, texts in (("real", real), ("synthetic", synthetic)):
        counts = word_frequencies(texts[:MAX_TEXTS])
        frequencies = {word: count for word, count in counts.items() if len(word) <= LONGEST_WORD}
        top = ", ".join(list(frequencies)[:12])
        pair[side] = word_cloud(frequencies, f"Word cloud of {side} texts, {name}: {top}") if frequencies else None
        pair[f"{side}_words"] = top
    return pair


def _class_row(data: ReportData, label: str) -> dict[str, Any] | None:
    real, synthetic = data.real_texts.get(label, ()), data.synthetic_texts.get(label, ())
    most = min(len(real), len(synthetic), MAX_TEXTS)
    if not most:
        return None
    real_trigrams = unique_trigram_curve(real[:MAX_TEXTS], [most])[0]
    synthetic_trigrams = unique_trigram_curve(synthetic[:MAX_TEXTS], [most])[0]
    return {"label": label, "most": most, "real": real_trigrams, "synthetic": synthetic_trigrams}


def _all(data: ReportData, side: str) -> list[str]:
    """Return the texts of all classes; a seeded sample of `MAX_TEXTS` where there are more."""
    by_class = data.real_texts if side == "real" else data.synthetic_texts
    texts = [text for label_texts in by_class.values() for text in label_texts]
    return texts if len(texts) <= MAX_TEXTS else random.Random(data.seed).sample(texts, MAX_TEXTS)

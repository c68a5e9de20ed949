"""What figures 4 and 7 are drawn from: frequent words, and distinct tri-grams against the number of texts."""

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.synthesis.diversity import unique_trigram_curve, word_frequencies
from fourshot.pipeline.task import Task
from fourshot.pipeline.task_data import TaskData

METHOD = "fourshot"
NUM_POINTS = 40
MAX_TEXTS = 2000  # per side


class CountedTexts(msgspec.Struct, frozen=True, kw_only=True):
    """The texts of one task and seed, counted. Sides are "real", "written" and "kept"; real ones as many as written."""

    task: str
    seed: int
    num: dict[str, int]  # side -> texts
    trigrams: dict[str, tuple[tuple[int, float], ...]]  # side -> (number of texts, distinct tri-grams)
    words: dict[str, dict[str, int]]  # side -> word -> how often


def count_texts(task: Task, folder: Path, seed: int) -> CountedTexts | None:
    """Count the texts of a finished comparison in ``folder``; None where it has none of `METHOD`."""
    pairs = finished_pairs(RunFolder(folder / f"seed{seed}" / METHOD))
    if not pairs:
        return None
    real = [example.text for example in TaskData(task).train]
    sides = {
        "real": sampled(real, min(len(pairs), MAX_TEXTS), seed),
        "written": sampled([candidate.text for candidate, _ in pairs], MAX_TEXTS, seed),
        "kept": sampled([candidate.text for candidate, verdict in pairs if verdict.kept], MAX_TEXTS, seed),
    }
    sides = {side: texts for side, texts in sides.items() if texts}
    return CountedTexts(
        task=task.name,
        seed=seed,
        num={side: len(texts) for side, texts in sides.items()},
        trigrams={side: _curve(texts) for side, texts in sides.items()},
        words={side: word_frequencies(texts) for side, texts in sides.items()},
    )


def sampled(texts: Sequence[str], limit: int, seed: int) -> list[str]:
    """At most ``limit`` of the texts, drawn with ``seed``."""
    return list(texts) if len(texts) <= limit else random.Random(seed).sample(list(texts), limit)


def _curve(texts: Sequence[str]) -> tuple[tuple[int, float], ...]:
    sizes = sorted({round(len(texts) * step / NUM_POINTS) for step in range(NUM_POINTS + 1)})
    return tuple((size, round(value, 2)) for size, value in zip(sizes, unique_trigram_curve(texts, sizes), strict=True))

"""Measuring one way of classifying on a test split."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from engine import calibration as calibrations
from engine.core import Adapter, Engine
from engine.errors import InputError
from pipeline.nouns import Example, Scores, Task
from pipeline.prompts import classification_prompt
from pipeline.scores import score_predictions


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Scores, and every answer behind them."""

    scores: Scores
    predicted: tuple[int, ...]  # index of the label answered, per test text
    gold: tuple[int, ...]
    confidence: tuple[float, ...]  # probability of the label answered


def evaluate(
    engine: Engine,
    task: Task,
    test: Sequence[Example],
    *,
    shots: Sequence[Example] = (),
    adapter: Adapter | None = None,
    calibration: Literal["none", "contextual", "batch"] = "none",
    max_text_words: int = 300,
) -> Evaluation:
    """Answer every text of ``test`` and compare. ``shots`` go into the prompt, so they are empty for adapters.

    The prefix cache is emptied first, so that the seconds do not depend on what was measured before. ``batch``
    calibration looks at the test texts, never at their labels. Raises InputError for an empty test split.
    """
    import numpy as np

    if not test:
        raise InputError("There is nothing to measure on: the test split is empty. Give one with at least one text.")
    engine.reset_prefix_cache()
    before = engine.stats()
    prompts = [classification_prompt(task, example.text, shots, max_text_words=max_text_words) for example in test]
    scores = engine.score(prompts, task.label_words, adapter)
    fitted = calibrations.NONE
    if calibration == "batch":
        fitted = calibrations.batch(scores)
    elif calibration == "contextual":
        empty = [
            classification_prompt(task, text, shots, max_text_words=max_text_words)
            for text in calibrations.CONTENT_FREE
        ]
        fitted = calibrations.contextual(engine.score(empty, task.label_words, adapter))
    after = engine.stats()
    probabilities = np.exp(calibrations.apply(fitted, scores))
    gold = [task.label_names.index(example.label) for example in test]
    return Evaluation(
        scores=score_predictions(
            probabilities,
            gold,
            seconds=after.busy_s - before.busy_s,
            prompt_tokens=after.prompt_tokens - before.prompt_tokens,
            cached_tokens=after.cached_tokens - before.cached_tokens,
        ),
        predicted=tuple(int(index) for index in probabilities.argmax(axis=1)),
        gold=tuple(gold),
        confidence=tuple(round(float(value), 5) for value in probabilities.max(axis=1)),
    )

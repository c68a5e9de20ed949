"""Long texts in parts: the windows of a text, and one prediction combined from those for its windows.

Source: Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section 5.3.1 (hierarchical methods: a text
is divided into fractions, which are combined by their mean).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine.calibration import SMALLEST, combine_parts, normalise
from fourshot.engine.core import Adapter, Engine
from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.fields import field_windows, join_fields, values_of
from fourshot.pipeline.rows.text_words import text_windows
from fourshot.pipeline.synthesis.fitting import shots_that_fit
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.pipeline.task import Example, Task

if TYPE_CHECKING:
    import numpy as np


def parts_of(task: Task, text: str, form: PromptFormat) -> list[str]:
    """Return ``[text]``, or the windows of a long text if ``form.long_texts`` is "windows"; prompts show them uncut.

    For an input with fields, each part has all fields; only the long ones are split into windows.
    """
    if form.long_texts != "windows":
        return [text]
    if not task.input_fields:
        parts = text_windows(text, form.max_text_words)
        return parts if len(parts) > 1 else [text]
    values = field_windows(values_of(task, text), form.max_text_words)
    return [join_fields(task.input_fields, value) for value in values] if len(values) > 1 else [text]


def classification_prompts(task: Task, text: str, form: PromptFormat, shots: Sequence[Example] = ()) -> list[str]:
    """Return the `classification_prompt` of each part of ``text``."""
    return [classification_prompt(task, part, form, shots) for part in parts_of(task, text, form)]


def score_texts(
    score: Callable[[list[str]], "np.ndarray"],
    task: Task,
    texts: Sequence[str],
    form: PromptFormat,
    shots: Sequence[Example] = (),
) -> "np.ndarray":
    """Return label log-probabilities of every text, [num_texts, num_labels]; ``score`` returns those of prompts."""
    prompts = [classification_prompts(task, text, form, shots) for text in texts]
    return combined(score([prompt for parts in prompts for prompt in parts]), [len(parts) for parts in prompts])


def label_scores(
    engine: Engine,
    task: Task,
    texts: Sequence[str],
    form: PromptFormat,
    shots: Sequence[Example] = (),
    adapter: Adapter | None = None,
) -> "np.ndarray":
    """Return `score_texts`, with prompts scored by ``engine``: with ``adapter``, or by the base model if it is None.

    A text for which filler and shots leave no room is scored without filler, behind as many of the shots as fit.
    """
    import numpy as np

    def score(prompts: list[str]) -> "np.ndarray":
        return engine.score(prompts, task.label_words, adapter, form.verbalizer)

    try:
        return score_texts(score, task, texts, form, shots)
    except InputError:  # raised before anything is computed
        if not shots:
            raise
    if len(texts) > 1:
        half = len(texts) // 2
        halves = texts[:half], texts[half:]
        return np.concatenate([label_scores(engine, task, part, form, shots, adapter) for part in halves])
    form = msgspec.structs.replace(form, filler=None)
    fitting = shots_that_fit(engine, task, shots, form, parts_of(task, texts[0], form))
    return score_texts(score, task, texts, form, fitting)


def combined(scores: "np.ndarray", counts: Sequence[int]) -> "np.ndarray":
    """Return one row for each text from the rows of its parts in ``scores``; ``counts``: the number of parts of each.

    The row of a text with one part is unchanged. Several rows are combined by `engine.calibration.combine_parts`.
    """
    import numpy as np

    if len(counts) == len(scores):
        return scores
    several = np.array(counts) > 1
    rows = np.log(combine_parts(normalise(scores), counts) + SMALLEST).astype(scores.dtype)
    rows[~several] = scores[np.cumsum([0, *counts])[:-1][~several]]
    return rows

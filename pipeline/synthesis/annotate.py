"""Annotation: the annotator in context, and the verdict on a candidate from the annotators' probabilities."""

from collections.abc import Sequence

import numpy as np

from fourshot.engine.chat import ChatTurns
from fourshot.engine.core import Engine
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.filters import longest_text
from fourshot.pipeline.synthesis.fitting import scores_behind_shots, shots_that_fit
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.task import Example, Task


class InContextAnnotator:
    """The base model in context, shown all shots that fit, as in the paper."""

    def __init__(
        self, engine: Engine, task: Task, shots: Sequence[Example], settings: RunSettings, chat: ChatTurns | None
    ) -> None:
        """``chat``: turns of the prompts, which show the shots; None for plain text."""
        self._engine, self._task = engine, task
        form = PromptFormat(
            verbalizer=settings.base_verbalizer,
            max_text_words=settings.max_text_words,
            long_texts=settings.long_texts,
            chat=chat,
        )
        longest = longest_text(task, shots, settings.filter)
        self._shown = shots_that_fit(engine, task, shots, form, [longest])
        self._form = aligned(form, task, engine.settings, self._shown, longest) if settings.aligns else form

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Return raw label log-probabilities, float32 [num_texts, num_labels]."""
        return scores_behind_shots(self._engine, self._task, texts, self._form, self._shown)


def judge(
    task: Task, candidates: Sequence[Candidate], probabilities: np.ndarray | None, settings: RunSettings
) -> list[Verdict]:
    """Return a verdict for each candidate, in order.

    A candidate is kept if its intended label is predicted, with a probability of at least ``annotate.confidence``. If
    soft labels are learnt, or the text has no intended label, any label may be the predicted one. ``probabilities``:
    the annotators', float64 [num_candidates, num_labels]. None: there is no annotator, and every candidate is kept,
    assumed to be of its intended class.
    """
    if probabilities is None:
        return [Verdict(candidate_id=candidate.id, kept=True, reason="kept") for candidate in candidates]
    names = task.label_names
    verdicts = []
    for candidate, row in zip(candidates, probabilities, strict=True):
        predicted = names[int(row.argmax())]
        agrees = settings.learns_soft or candidate.label in ("", predicted)
        kept = agrees and bool(row.max() >= settings.annotate.confidence)
        verdicts.append(
            Verdict(
                candidate_id=candidate.id,
                kept=kept,
                reason="kept" if kept else "low_confidence" if agrees else "label_disagrees",
                predicted=predicted,
                probabilities={name: round(float(p), 6) for name, p in zip(names, row, strict=True)},
            )
        )
    return verdicts

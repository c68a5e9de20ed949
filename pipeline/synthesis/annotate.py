"""Annotation: who reads a candidate and says which class it is, and when that is believed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from fourshot.engine import calibration as calibrations
from fourshot.engine.chat import ChatTurns
from fourshot.engine.core import Adapter, Engine, Verbalizer
from fourshot.engine.errors import InputError
from fourshot.pipeline.synthesis.filters import longest_text
from fourshot.pipeline.synthesis.fitting import shots_that_fit
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording, context, question, reading_prompt
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.tasks.types import Example, Task

if TYPE_CHECKING:
    import numpy as np


DOUBT = 1e-4  # probability that a reader leaves to every label


class Annotator(Protocol):
    """Reads texts without being told what they were drawn for."""

    def scores(self, texts: Sequence[str], folds: Sequence[int | None] = ()) -> "np.ndarray":
        """Nats [num_texts, num_labels], uncalibrated.

        ``folds``: of each text, the fold whose adapter did not see it in training; None or left out: none saw it.
        """
        ...


class InContextAnnotator:
    """The base model, shown all shots that fit: what the paper does."""

    def __init__(
        self,
        engine: Engine,
        task: Task,
        shots: Sequence[Example],
        settings: RunSettings,
        chat: ChatTurns | None = None,
    ) -> None:
        self._engine, self._task = engine, task
        self._form = PromptFormat(max_text_words=settings.max_text_words, chat=chat)
        shown = shots_that_fit(engine, task, shots, self._form, [longest_text(shots, settings.filter)])
        self._context = context(task, shown, self._form)

    def scores(self, texts: Sequence[str], folds: Sequence[int | None] = ()) -> "np.ndarray":
        """Raw label log-probabilities, float32 [num_texts, num_labels]."""
        prompts = [self._context + question(text, self._form) for text in texts]
        return self._engine.score(prompts, self._task.label_words)


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter of the committee."""

    adapter: Adapter
    wording: Wording = "task"  # of the prompts that it was trained on
    chat: ChatTurns | None = None  # of the same
    verbalizer: Verbalizer = "word"  # what it learnt to say
    fold: int | None = None  # reads the candidates of this fold, which it was not trained on; None reads all


class Committee:
    """Adapters that read one after another; their log-probabilities are averaged and normalised.

    Adapters of the shots know what the labels mean but not much, and what they know hangs on the wording of the prompt
    and the random start: the mean over several knows more than the best of them. Source: Schick & Schuetze 2021,
    "Exploiting Cloze Questions for Few Shot Text Classification", section 3.2.

    Adapters of a fold learn what most texts drawn for a class have in common, so they contradict the label of one that
    was drawn for the wrong class. Source: Northcutt et al. 2021, "Confident Learning", section 3 (out-of-sample
    predictions by cross-validation show label errors).
    """

    def __init__(self, engine: Engine, task: Task, readers: Sequence[Reader], settings: RunSettings) -> None:
        if not readers:
            raise InputError("The adapters that annotate candidates are missing: none was given. Train at least one.")
        self._engine, self._task, self._words = engine, task, settings.max_text_words
        self._of_shots = [reader for reader in readers if reader.fold is None]
        self._of_folds = [reader for reader in readers if reader.fold is not None]
        self._fold_weight = settings.annotate.fold_weight

    def scores(self, texts: Sequence[str], folds: Sequence[int | None] = ()) -> "np.ndarray":
        """Log-probabilities, float64 [num_texts, num_labels]."""
        import numpy as np

        return np.log(self.probabilities(texts, folds))

    def probabilities(self, texts: Sequence[str], folds: Sequence[int | None] = ()) -> "np.ndarray":
        """Float64 [num_texts, num_labels]; each row sums to one."""
        import numpy as np

        logs = np.zeros((len(texts), len(self._task.labels)))
        for reader in self._of_shots:
            logs += _bounded_log(self._read(reader, texts)) / len(self._of_shots)
        if self._of_folds:
            logs += self._fold_weight * _bounded_log(self._fold_probabilities(texts, folds or [None] * len(texts)))
        return calibrations.normalise(logs)

    def _fold_probabilities(self, texts: Sequence[str], folds: Sequence[int | None]) -> "np.ndarray":
        """Of the adapter that did not see the text, or the mean of all for one that none saw."""
        import numpy as np

        total = np.zeros((len(texts), len(self._task.labels)))
        count = np.zeros((len(texts), 1))
        for reader in self._of_folds:
            chosen = [i for i, fold in enumerate(folds) if fold in (None, reader.fold)]
            if chosen:
                total[chosen] += self._read(reader, [texts[i] for i in chosen])
                count[chosen] += 1
        return total / count

    def _read(self, reader: Reader, texts: Sequence[str]) -> "np.ndarray":
        """Float64 [num_texts, num_labels]."""
        form = PromptFormat(wording=reader.wording, max_text_words=self._words, chat=reader.chat)
        prompts = [reading_prompt(self._task, text, form) for text in texts]
        return calibrations.normalise(
            self._engine.score(prompts, self._task.label_words, reader.adapter, reader.verbalizer)
        )


def annotator_of(
    engine: Engine,
    task: Task,
    shots: Sequence[Example],
    settings: RunSettings,
    readers: Sequence[Reader],
    chat: ChatTurns | None = None,
) -> Annotator:
    """The annotator that the settings ask for; ``chat``: of prompts that show the shots.

    Raises InputError where they ask for nobody, or for missing adapters.
    """
    if settings.annotate.annotator == "icl":
        return InContextAnnotator(engine, task, shots, settings, chat)
    if settings.annotate.annotator == "adapters":
        return Committee(engine, task, readers, settings)
    raise InputError("The settings ask for no annotator (annotate.annotator is 'none'), so nobody can read texts.")


def _bounded_log(probabilities: "np.ndarray") -> "np.ndarray":
    """Log-probabilities that do not fall without end: no single reader is to outvote all others."""
    import numpy as np

    return np.log(probabilities + DOUBT)


def judge(
    task: Task, candidates: Sequence[Candidate], probabilities: "np.ndarray | None", settings: AnnotateSettings
) -> list[Verdict]:
    """A verdict for each candidate: kept where the annotator says the intended label, and confidently enough.

    ``probabilities``: the annotator's, float64 [num_candidates, num_labels]. None: there is no annotator, and every
    candidate is believed to be what it was drawn for.
    """
    if probabilities is None:
        return [Verdict(candidate_id=candidate.id, kept=True, reason="kept") for candidate in candidates]
    names = task.label_names
    verdicts = []
    for candidate, row in zip(candidates, probabilities, strict=True):
        predicted = names[int(row.argmax())]
        agrees = predicted == candidate.label
        kept = agrees and bool(row[names.index(candidate.label)] >= settings.confidence)
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

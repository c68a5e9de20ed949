"""Re-labelling: who reads a candidate and says which class it is, and when that is believed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from fourshot.engine import calibration as calibrations
from fourshot.engine.calibration import Calibration
from fourshot.engine.core import Adapter, Engine
from fourshot.engine.errors import InputError
from fourshot.pipeline.synthesis.prompts import PromptFormat, Wording, context, question, reading_prompt
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.tasks.types import Example, Task

if TYPE_CHECKING:
    import numpy as np


DOUBT = 1e-4  # probability that a reader leaves to every label


class Annotator(Protocol):
    """Reads candidates without being told what they were drawn for."""

    def probabilities(self, candidates: Sequence[Candidate]) -> "np.ndarray":
        """Float64 [num_candidates, num_labels]; each row sums to one."""
        ...


class InContextAnnotator:
    """The base model, shown all shots: what the paper does."""

    def __init__(
        self, engine: Engine, task: Task, shots: Sequence[Example], settings: RunSettings, calibration: Calibration
    ) -> None:
        self._engine, self._task, self._calibration = engine, task, calibration
        self._context = context(task, shots, settings.max_text_words)
        self._words = settings.max_text_words

    def probabilities(self, candidates: Sequence[Candidate]) -> "np.ndarray":
        import numpy as np

        scores = self.scores([candidate.text for candidate in candidates])
        return np.exp(calibrations.apply(self._calibration, scores))

    def scores(self, texts: Sequence[str]) -> "np.ndarray":
        """Raw label log-probabilities, float32 [num_texts, num_labels]."""
        prompts = [self._context + question(text, self._words) for text in texts]
        return self._engine.score(prompts, self._task.label_words)


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter of the committee."""

    adapter: Adapter
    wording: Wording = "task"  # of the prompts that it was trained on
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

    def __init__(
        self,
        engine: Engine,
        task: Task,
        readers: Sequence[Reader],
        settings: RunSettings,
        fold_of: Mapping[str, int] | None = None,
    ) -> None:
        """``fold_of``: candidate id -> fold, for the candidates that fold adapters were trained on."""
        if not readers:
            raise InputError("The adapters that re-label candidates are missing: none was given. Train at least one.")
        self._engine, self._task, self._words = engine, task, settings.max_text_words
        self._of_shots = [reader for reader in readers if reader.fold is None]
        self._of_folds = [reader for reader in readers if reader.fold is not None]
        self._fold_weight, self._fold_of = settings.annotate.fold_weight, fold_of or {}

    def probabilities(self, candidates: Sequence[Candidate]) -> "np.ndarray":
        import numpy as np

        logs = np.zeros((len(candidates), len(self._task.labels)))
        for reader in self._of_shots:
            logs += _bounded_log(self._read(reader, candidates)) / len(self._of_shots)
        if self._of_folds:
            logs += self._fold_weight * _bounded_log(self._fold_probabilities(candidates))
        return calibrations.normalise(logs)

    def _fold_probabilities(self, candidates: Sequence[Candidate]) -> "np.ndarray":
        """Of the adapter that did not see the candidate, or the mean of all for one that none saw."""
        import numpy as np

        total = np.zeros((len(candidates), len(self._task.labels)))
        count = np.zeros((len(candidates), 1))
        for reader in self._of_folds:
            chosen = [i for i, one in enumerate(candidates) if self._fold_of.get(one.id, reader.fold) == reader.fold]
            if chosen:
                total[chosen] += self._read(reader, [candidates[i] for i in chosen])
                count[chosen] += 1
        return total / count

    def _read(self, reader: Reader, candidates: Sequence[Candidate]) -> "np.ndarray":
        """Float64 [num_candidates, num_labels]."""
        form = PromptFormat(wording=reader.wording, max_text_words=self._words)
        prompts = [reading_prompt(self._task, candidate.text, form) for candidate in candidates]
        return calibrations.normalise(self._engine.score(prompts, self._task.label_words, reader.adapter))


def _bounded_log(probabilities: "np.ndarray") -> "np.ndarray":
    """Log-probabilities that do not fall without end: no single reader is to outvote all others."""
    import numpy as np

    return np.log(probabilities + DOUBT)


def fit_calibration(
    annotator: InContextAnnotator, task: Task, settings: AnnotateSettings, first_round: Sequence[Candidate]
) -> Calibration:
    """Calibration of the in-context annotator, from content-free texts or from the first round's candidates.

    For ``batch`` the share of each class among those candidates is known: they were drawn for it.
    """
    if settings.calibration == "none":
        return calibrations.NONE
    if settings.calibration == "contextual":
        return calibrations.contextual(annotator.scores(list(calibrations.CONTENT_FREE)))
    drawn = [sum(candidate.label == name for candidate in first_round) for name in task.label_names]
    return calibrations.batch(annotator.scores([candidate.text for candidate in first_round]), drawn)


def judge(
    task: Task, annotator: Annotator | None, candidates: Sequence[Candidate], settings: AnnotateSettings
) -> list[Verdict]:
    """A verdict for each candidate: kept where ``annotator`` says the intended label, and says it confidently enough.

    Without an annotator every candidate is believed to be what it was drawn for.
    """
    if not candidates:
        return []
    if annotator is None:
        return [
            Verdict(candidate_id=candidate.id, kept=True, reason="kept", train_label=candidate.label)
            for candidate in candidates
        ]
    names = task.label_names
    verdicts = []
    for candidate, row in zip(candidates, annotator.probabilities(candidates), strict=True):
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
                train_label=candidate.label if kept else "",
            )
        )
    return verdicts


def surplus(verdict: Verdict) -> Verdict:
    """The verdict on a good text of a class that has enough."""
    return msgspec.structs.replace(verdict, kept=False, reason="surplus", train_label="")

"""Re-labelling: who reads a candidate and says which class it is, and when that is believed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from engine import calibration as calibrations
from engine.calibration import Calibration
from engine.core import Adapter, Engine
from engine.errors import InputError
from pipeline.nouns import Candidate, Example, Task, Verdict
from pipeline.prompts import classification_prompt
from pipeline.settings import AnnotateSettings, RunSettings

if TYPE_CHECKING:
    import numpy as np


class Annotator(Protocol):
    """One or several readers of candidates."""

    def probabilities(self, candidates: Sequence[Candidate]) -> "np.ndarray":
        """Float64 [num_readers, num_candidates, num_labels]; each row sums to one, whatever was intended."""
        ...


class InContextAnnotator:
    """The base model, shown all shots: what the paper does."""

    def __init__(
        self, engine: Engine, task: Task, shots: Sequence[Example], settings: RunSettings, calibration: Calibration
    ) -> None:
        self._engine, self._task, self._shots = engine, task, shots
        self._words, self._calibration = settings.max_text_words, calibration

    def probabilities(self, candidates: Sequence[Candidate]) -> "np.ndarray":
        import numpy as np

        scores = self.scores([candidate.text for candidate in candidates])
        return np.exp(calibrations.apply(self._calibration, scores))[None]

    def scores(self, texts: Sequence[str]) -> "np.ndarray":
        """Raw label log-probabilities, float32 [num_texts, num_labels]."""
        prompts = [classification_prompt(self._task, text, self._shots, max_text_words=self._words) for text in texts]
        return self._engine.score(prompts, self._task.label_words)


class AdapterAnnotator:
    """Adapters trained on the shots alone, which differ in their random start; the prompt carries no shots."""

    def __init__(self, engine: Engine, task: Task, adapters: Sequence[Adapter], settings: RunSettings) -> None:
        if not adapters:
            raise InputError("The adapters that re-label candidates are missing: none was given. Train at least one.")
        self._engine, self._task, self._adapters = engine, task, adapters
        self._words = settings.max_text_words

    def probabilities(self, candidates: Sequence[Candidate]) -> "np.ndarray":
        import numpy as np

        texts = [candidate.text for candidate in candidates]
        return np.stack([self._read(adapter, texts) for adapter in self._adapters])

    def _read(self, adapter: Adapter, texts: Sequence[str]) -> "np.ndarray":
        """Float64 [num_texts, num_labels]."""
        prompts = [classification_prompt(self._task, text, max_text_words=self._words) for text in texts]
        return calibrations.normalise(self._engine.score(prompts, self._task.label_words, adapter))


class FoldAnnotator(AdapterAnnotator):
    """Adapters trained on the shots and on candidates, each reading only candidates that it was not trained on.

    What most texts drawn for a class have in common is learnt, a text that was drawn for the wrong class is not, so the
    adapter of the other folds contradicts its label. Source: Northcutt et al. 2021, "Confident Learning", section 3
    (out-of-sample predictions by cross-validation show label errors).
    """

    def __init__(
        self,
        engine: Engine,
        task: Task,
        adapters: Sequence[Adapter],
        settings: RunSettings,
        fold_of: Mapping[str, int],
    ) -> None:
        """``adapters[f]`` did not see fold f. ``fold_of``: candidate id -> fold, for the candidates of the pool."""
        super().__init__(engine, task, adapters, settings)
        self._fold_of = fold_of

    def probabilities(self, candidates: Sequence[Candidate]) -> "np.ndarray":
        """One reader: the adapter that did not see the candidate, or the mean of all for one that none saw."""
        import numpy as np

        total = np.zeros((len(candidates), len(self._task.labels)))
        readers = np.zeros((len(candidates), 1))
        for fold, adapter in enumerate(self._adapters):
            chosen = [i for i, one in enumerate(candidates) if self._fold_of.get(one.id, fold) == fold]
            if chosen:
                total[chosen] += self._read(adapter, [candidates[i].text for i in chosen])
                readers[chosen] += 1
        return (total / readers)[None]


class Trusting:
    """Nobody reads: every text that is well formed is believed to be what it was drawn for. For ablations."""

    def __init__(self, task: Task) -> None:
        self._num_labels = len(task.labels)

    def probabilities(self, candidates: Sequence[Candidate]) -> "np.ndarray":
        import numpy as np

        return np.zeros((0, len(candidates), self._num_labels))


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
    task: Task, annotator: Annotator, candidates: Sequence[Candidate], settings: AnnotateSettings
) -> list[Verdict]:
    """A verdict for each candidate: kept where every reader says the intended label, and says it confidently enough."""
    if not candidates:
        return []
    readings = annotator.probabilities(candidates)
    if readings.shape[0] == 0:
        return [
            Verdict(candidate_id=candidate.id, kept=True, reason="kept", train_label=candidate.label)
            for candidate in candidates
        ]
    names = task.label_names
    verdicts = []
    for position, candidate in enumerate(candidates):
        intended = names.index(candidate.label)
        mean = readings[:, position].mean(axis=0)
        agree = bool((readings[:, position].argmax(axis=1) == intended).all())
        sure = bool(mean[intended] >= settings.confidence)
        verdicts.append(
            Verdict(
                candidate_id=candidate.id,
                kept=agree and sure,
                reason="kept" if agree and sure else "low_confidence" if agree else "label_disagrees",
                predicted=names[int(mean.argmax())],
                probabilities={name: round(float(p), 6) for name, p in zip(names, mean, strict=True)},
                train_label=candidate.label if agree and sure else "",
            )
        )
    return verdicts


def surplus(verdict: Verdict) -> Verdict:
    """The verdict on a good text of a class that has enough."""
    return msgspec.structs.replace(verdict, kept=False, reason="surplus", train_label="")

"""Calibration of a finished classifier on the data of a run, without test labels.

A classifier's predictions on its own training texts say nothing about its calibration. The mean confidence of one of
synthetic texts, on candidates that it was not trained on, is made equal to that of the annotators where these are less
confident. It is never made more confident, because annotators that see the shots overestimate themselves. Where they
leave shots out, they are weighted on them, so their confidence is based on labels. The training targets of a classifier
of probabilities are not used: they are more confident than the annotators, and say nothing about their accuracy
(docs/training-log.md has the measurements).

One that was trained on the shots alone is less accurate than the annotators. Its mean confidence on candidates is made
equal to the mean probability that the annotators give to the labels it predicts. Without annotators that see shots, it
is calibrated with *calibrators*: adapters trained like it, each without a part of the shots. How overconfident they are
on that part is known, because shots have labels.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (temperature scaling).
"""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TypeVar

import msgspec
import numpy as np

from fourshot.engine.calibration import (
    Calibration,
    apply,
    fit_temperature,
    match_confidence,
    normalise,
    smoothed_targets,
)
from fourshot.engine.core import Adapter, Engine
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.selective import CoverageCurve, Scope, coverage_curve
from fourshot.pipeline.synthesis.committee import Annotator
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.synthesis.windows import label_scores
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import WorkFolder

T = TypeVar("T")
CALIBRATED_FILE = "calibrated.json"  # beside the weights
MOST_UNSEEN = 120  # candidates that are scored to fit the temperature
FEWEST_UNSEEN = 20  # if there are fewer, none is used
LOST = 0.1  # share of a task's own texts that its out-of-scope rule may reject
OTHERS_FILE = "other_subjects.jsonl"


class HeldOutCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that the classifier was not trained on."""

    text: str
    certainty: float = 0.0  # the annotators' probability of their likeliest label; 0: it is not compared
    # The annotators', of each label; unset if they are not needed, so that earlier scores keep their names.
    probabilities: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET


class CalibrationResult(msgspec.Struct, frozen=True, kw_only=True):
    """Calibration of one adapter."""

    temperature: float = 1.0
    num_shots: int = 0  # that the temperature was fitted on, or
    num_soft: int = 0  # candidates with probabilities, in files of earlier versions, or
    num_read: int = 0  # candidates for which the mean confidence was limited to that of the annotators, or
    num_estimated: int = 0  # candidates on which the annotators estimate its accuracy
    made_for: str = ""  # hash of `CalibrationItem.basis`; "" in files of earlier versions
    curve: CoverageCurve | None = None  # from the candidates
    scope: Scope | None = None

    @property
    def basis(self) -> str:
        """What the temperature was fitted on, for people; "" if it was not fitted."""
        if self.num_shots:
            return f"{self.num_shots} shots that adapters were trained without"
        if self.num_read:
            return f"{self.num_read} candidates that it did not learn, to be no surer of them than its annotators"
        if self.num_estimated:
            return f"{self.num_estimated} candidates, to be as sure of them as the annotators say that it is right"
        return f"{self.num_soft} candidates with the annotators' probabilities" if self.num_soft else ""


class CalibrationItem(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter to be calibrated, and the texts to do it on."""

    adapter: Adapter
    task: Task
    form: PromptFormat
    shots: tuple[Example, ...]
    calibrators: tuple[Annotator, ...] = ()  # none if it was trained on probabilities
    unseen: tuple[HeldOutCandidate, ...] = ()
    typical: tuple[str, ...] = ()  # unseen texts that are surely of the task: see `typical_texts`

    @property
    def key(self) -> str:
        return self.adapter.name

    @property
    def basis(self) -> tuple[object, ...]:
        """Everything that the temperature depends on, without paths."""
        return [
            (calibrator.adapter and calibrator.adapter.name, calibrator.left_out) for calibrator in self.calibrators
        ], self.unseen

    @property
    def adapters(self) -> set[Adapter]:
        return {self.adapter, *(calibrator.adapter for calibrator in self.calibrators if calibrator.adapter)}

    @property
    def is_finished(self) -> bool:
        stored = WorkFolder(self.adapter.path).find(CALIBRATED_FILE, CalibrationResult)
        return stored is not None and stored.made_for in ("", value_hash(self.basis))

    def do(self, engine: Engine) -> None:
        """Calibrate the adapter unless it is finished; `CALIBRATED_FILE` beside its weights has the result."""
        if not self.is_finished:
            engine.reset_prefix_cache()  # the result must not depend on previous requests
            result = msgspec.structs.replace(calibrate(engine, self), made_for=value_hash(self.basis))
            WorkFolder(self.adapter.path).write(CALIBRATED_FILE, result)


def calibration_of(
    adapter: Adapter,
    task: Task,
    form: PromptFormat,
    shots: Sequence[Example],
    calibrators: Sequence[Annotator],
    not_learnt: Sequence[tuple[Candidate, Verdict]],
    *,
    compared: bool,
    estimated: bool = False,
) -> CalibrationItem | None:
    """Return how to calibrate an adapter, on ``not_learnt`` texts and shots; None if there are too few of both.

    ``compared``: its mean confidence is limited to that of the annotators. ``estimated``: it is made equal to the
    accuracy that they estimate.
    """
    item = CalibrationItem(
        adapter=adapter,
        task=task,
        form=form,
        shots=tuple(shots),
        calibrators=tuple(calibrators),
        unseen=unseen_texts(not_learnt, compared=compared, names=task.label_names if estimated else ()),
        typical=typical_texts(not_learnt),
    )
    return item if item.calibrators or item.unseen else None


def calibrate(engine: Engine, item: CalibrationItem) -> CalibrationResult:
    """Fit the temperature to the annotators' confidence on unseen candidates, or else to calibrators' on unseen shots.

    That of the annotators is an upper limit: the temperature is at least 1.
    The result has a coverage curve and an out-of-scope rule if there are unseen candidates.
    """
    if not item.unseen:
        return _by_shots(engine, item) if item.calibrators else CalibrationResult()
    unseen_scores = _ask(engine, item, [unseen.text for unseen in item.unseen])
    likely = [unseen.probabilities for unseen in item.unseen if unseen.probabilities]
    if len(likely) == len(item.unseen):
        predicted = unseen_scores.argmax(axis=1).tolist()
        right = [probabilities[label] for probabilities, label in zip(likely, predicted, strict=True)]
        temperature = match_confidence(unseen_scores, float(np.mean(right)))
        calibrated = CalibrationResult(temperature=temperature, num_estimated=len(right))
    elif all(unseen.certainty for unseen in item.unseen):
        certainty = float(np.mean([unseen.certainty for unseen in item.unseen]))
        temperature = max(1.0, match_confidence(unseen_scores, certainty))
        calibrated = CalibrationResult(temperature=temperature, num_read=len(unseen_scores))
    else:
        calibrated = _by_shots(engine, item)

    def certainty_of(scores: np.ndarray) -> np.ndarray:
        """Return the calibrated probability of the likeliest label of each text, [num_texts]."""
        return np.exp(apply(Calibration(temperature=calibrated.temperature), scores)).max(axis=1)

    sure = certainty_of(unseen_scores)
    own = certainty_of(_ask(engine, item, item.typical)) if item.typical else sure
    scope = _scope(own, certainty_of(_ask(engine, item, other_subjects())))
    return msgspec.structs.replace(calibrated, curve=coverage_curve(sure, sure, "held-out texts"), scope=scope)


def _scope(own: np.ndarray, others: np.ndarray) -> Scope:
    """Return the rule that rejects a share `LOST` of the task's own texts, with its errors on ``own`` and ``others``.

    Both are probabilities of the likeliest label, [num_texts].
    """
    least = float(np.quantile(own, LOST))
    return Scope(
        least_probability=least,
        false_rejects=float((own < least).mean()),
        num_texts=len(own),
        false_accepts=float((others >= least).mean()),
        num_others=len(others),
    )


def _by_shots(engine: Engine, item: CalibrationItem) -> CalibrationResult:
    names = item.task.label_names
    left_out = [[item.shots[index] for index in calibrator.left_out] for calibrator in item.calibrators]
    held_out = [
        _log_probabilities(engine, item, calibrator, shots)
        for calibrator, shots in zip(item.calibrators, left_out, strict=True)
        if shots
    ]
    labels = np.array([names.index(shot.label) for shots in left_out for shot in shots])
    temperature = fit_temperature(np.concatenate(held_out), smoothed_targets(labels, len(names)))
    return CalibrationResult(temperature=temperature, num_shots=len(labels))


def temperature_of(adapter: Adapter) -> float:
    """Return the temperature that was fitted for a calibrated adapter."""
    return WorkFolder(adapter.path).read(CALIBRATED_FILE, CalibrationResult).temperature


def unseen_texts(
    pairs: Sequence[tuple[Candidate, Verdict]], *, compared: bool = False, names: Sequence[str] = ()
) -> tuple[HeldOutCandidate, ...]:
    """Return some of the texts that a classifier was not trained on; none if they are fewer than `FEWEST_UNSEEN`.

    ``compared``: with the annotators' confidence, to compare the classifier's with it. ``names``: of the labels whose
    probabilities by the annotators are needed.
    """
    if len(pairs) < FEWEST_UNSEEN:
        return ()
    return tuple(
        HeldOutCandidate(
            text=candidate.text,
            certainty=max(verdict.probabilities.values()) if compared else 0.0,
            probabilities=tuple(verdict.probabilities[name] for name in names) or msgspec.UNSET,
        )
        for candidate, verdict in evenly_chosen(pairs, MOST_UNSEEN)
    )


def typical_texts(pairs: Sequence[tuple[Candidate, Verdict]]) -> tuple[str, ...]:
    """Return some texts that a classifier was not trained on and whose intended label its annotators predicted.

    Texts without an intended label count, too; none are returned if there are fewer than `FEWEST_UNSEEN`. Most unseen
    texts are ones that the annotators gave another label than the intended one. Those are harder than users' texts, so
    a rule that accepts them accepts nearly everything (docs/training-log.md).
    """
    typical = [
        candidate.text
        for candidate, verdict in pairs
        if verdict.reason in ("kept", "surplus")
        and (verdict.predicted == candidate.label or candidate.mixed or candidate.origin == "user")
    ]
    return tuple(evenly_chosen(typical, MOST_UNSEEN)) if len(typical) >= FEWEST_UNSEEN else ()


def evenly_chosen(items: Sequence[T], most: int) -> list[T]:
    """Return at most ``most`` of ``items``, evenly spread over their order."""
    count = min(len(items), most)
    return [items[index * len(items) // count] for index in range(count)]


@cache
def other_subjects() -> tuple[str, ...]:
    """Return texts on subjects that most tasks have nothing to do with."""
    lines = resources.files("fourshot.pipeline.cells").joinpath(OTHERS_FILE).read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=dict[str, str])["text"] for line in lines)


def _ask(engine: Engine, item: CalibrationItem, texts: Sequence[str]) -> np.ndarray:
    """Return the classifier's raw log-probabilities, [num_texts, num_labels]."""
    return label_scores(engine, item.task, texts, item.form, adapter=item.adapter)


def _log_probabilities(
    engine: Engine, item: CalibrationItem, calibrator: Annotator, shots: Sequence[Example]
) -> np.ndarray:
    """Return a calibrator's log-probabilities, normalised over the labels, [num_shots, num_labels]."""
    texts = [shot.text for shot in shots]
    scores = label_scores(engine, item.task, texts, calibrator.form(item.form), adapter=calibrator.adapter)
    return np.log(np.maximum(normalise(scores), np.finfo(np.float64).tiny))

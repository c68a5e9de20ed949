"""Calibration of a finished classifier on what a run has without test labels.

What a classifier says of texts that it was trained on tells nothing. What was trained on the shots alone is compared
with judges: adapters that were trained like it, each without a part of the shots. By how much they are too sure of
those is known, because these labels are.

A classifier of synthetic texts was trained longer, and is surer than such judges. It is made as sure, on average, of
candidates that it did not learn as the annotators are of them. Those are weighed by shots that they have not seen, so
their certainty stands on labels. What a classifier of probabilities learns is surer than its annotators are, and says
nothing of how right they are (docs/training-log.md has the measurements).

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
    match_certainty,
    normalise,
    smoothed_targets,
)
from fourshot.engine.core import Adapter, Engine
from fourshot.pipeline.selective import CoverageCurve, Scope, coverage_curve
from fourshot.pipeline.synthesis.committee import Reader
from fourshot.pipeline.synthesis.prompts import PromptFormat
from fourshot.pipeline.synthesis.types import Candidate, Verdict
from fourshot.pipeline.synthesis.windows import label_scores
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.work_folder import WorkFolder

T = TypeVar("T")
CALIBRATED_FILE = "calibrated.json"  # beside the weights
MOST_UNSEEN = 120  # candidates that it is asked about
FEWEST_UNSEEN = 20
LOST = 0.1  # share of a task's own texts that its out-of-scope rule may take for none
OTHERS_FILE = "other_subjects.jsonl"


class HeldOutCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that the classifier was not trained on."""

    text: str
    certainty: float = 0.0  # the probability that annotators give their likeliest label; 0: nobody compares with it


class CalibrationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one adapter."""

    temperature: float = 1.0
    num_shots: int = 0  # that the temperature was found on, or
    num_soft: int = 0  # candidates with probabilities, in files of earlier versions, or
    num_read: int = 0  # candidates that annotators are sure of to some degree
    curve: CoverageCurve | None = None  # from the candidates
    scope: Scope | None = None

    @property
    def basis(self) -> str:
        """For people; "" where the temperature was not found."""
        if self.num_shots:
            return f"{self.num_shots} shots that adapters were trained without"
        if self.num_read:
            return f"{self.num_read} candidates that it did not learn, to be as sure of them as its annotators"
        return f"{self.num_soft} candidates with the annotators' probabilities" if self.num_soft else ""


class CalibrationItem(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter that is to be calibrated."""

    adapter: Adapter
    task: Task
    form: PromptFormat
    shots: tuple[Example, ...]
    judges: tuple[Reader, ...] = ()  # none where it learnt probabilities
    unseen: tuple[HeldOutCandidate, ...] = ()
    typical: tuple[str, ...] = ()  # texts that it did not learn, and that are surely of the task: see `typical_texts`

    @property
    def key(self) -> str:
        return self.adapter.name

    @property
    def basis(self) -> tuple[object, ...]:
        """All that the temperature depends on, wherever it lies."""
        return [(judge.adapter and judge.adapter.name, judge.left_out) for judge in self.judges], self.unseen

    @property
    def adapters(self) -> set[Adapter]:
        return {self.adapter, *(judge.adapter for judge in self.judges if judge.adapter)}

    @property
    def is_finished(self) -> bool:
        return WorkFolder(self.adapter.path).has(CALIBRATED_FILE)

    def do(self, engine: Engine) -> None:
        """`CALIBRATED_FILE` beside the weights has the result."""
        if not self.is_finished:
            engine.reset_prefix_cache()  # what is found must not depend on what was asked before
            WorkFolder(self.adapter.path).write(CALIBRATED_FILE, calibrate(engine, self))


def calibration_of(
    adapter: Adapter,
    task: Task,
    form: PromptFormat,
    shots: Sequence[Example],
    judges: Sequence[Reader],
    not_learnt: Sequence[tuple[Candidate, Verdict]],
    *,
    compared: bool,
) -> CalibrationItem | None:
    """How an adapter is calibrated on what its classifier did not learn; None where there is nothing to do so on.

    ``compared``: its certainty is compared with that of the annotators.
    """
    item = CalibrationItem(
        adapter=adapter,
        task=task,
        form=form,
        shots=tuple(shots),
        judges=tuple(judges),
        unseen=unseen_texts(not_learnt, compared=compared),
        typical=typical_texts(not_learnt),
    )
    return item if item.judges or item.unseen else None


def calibrate(engine: Engine, item: CalibrationItem) -> CalibrationResult:
    """Ask the judges about what they have not seen, and the classifier about what it has not."""
    if not item.unseen:
        return _by_shots(engine, item) if item.judges else CalibrationResult()
    unseen_scores = _ask(engine, item, [unseen.text for unseen in item.unseen])
    if all(unseen.certainty for unseen in item.unseen):
        certainty = float(np.mean([unseen.certainty for unseen in item.unseen]))
        calibrated = CalibrationResult(
            temperature=match_certainty(unseen_scores, certainty), num_read=len(unseen_scores)
        )
    else:
        calibrated = _by_shots(engine, item)

    def certainty_of(scores: np.ndarray) -> np.ndarray:
        """Of the likeliest label of each text, calibrated: [num_texts]."""
        return np.exp(apply(Calibration(temperature=calibrated.temperature), scores)).max(axis=1)

    sure = certainty_of(unseen_scores)
    own = certainty_of(_ask(engine, item, item.typical)) if item.typical else sure
    scope = _scope(own, certainty_of(_ask(engine, item, other_subjects())))
    return msgspec.structs.replace(calibrated, curve=coverage_curve(sure, sure, "held-out texts"), scope=scope)


def _scope(own: np.ndarray, others: np.ndarray) -> Scope:
    """The rule that takes a share `LOST` of the task's own texts for none, by the certainty of each [num_texts]."""
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
    left_out = [[item.shots[index] for index in judge.left_out] for judge in item.judges]
    held_out = [_read(engine, item, judge, shots) for judge, shots in zip(item.judges, left_out, strict=True) if shots]
    labels = np.array([names.index(shot.label) for shots in left_out for shot in shots])
    temperature = fit_temperature(np.concatenate(held_out), smoothed_targets(labels, len(names)))
    return CalibrationResult(temperature=temperature, num_shots=len(labels))


def temperature_of(adapter: Adapter) -> float:
    """That was found for an adapter that is calibrated."""
    return WorkFolder(adapter.path).read(CALIBRATED_FILE, CalibrationResult).temperature


def unseen_texts(pairs: Sequence[tuple[Candidate, Verdict]], *, compared: bool = False) -> tuple[HeldOutCandidate, ...]:
    """Some of what a classifier did not learn; none where there is too little.

    ``compared``: its certainty is to be compared with that of the annotators who read them.
    """
    if len(pairs) < FEWEST_UNSEEN:
        return ()
    return tuple(
        HeldOutCandidate(text=candidate.text, certainty=max(verdict.probabilities.values()) if compared else 0.0)
        for candidate, verdict in evenly_chosen(pairs, MOST_UNSEEN)
    )


def typical_texts(pairs: Sequence[tuple[Candidate, Verdict]]) -> tuple[str, ...]:
    """Some of what a classifier did not learn of which its annotators say what was asked for; none where too few are.

    Most of what it did not learn are texts that annotators took for another class than the one they were written for.
    Those are harder than what users ask, so a rule that spares them accepts nearly everything (docs/training-log.md).
    """
    typical = [
        candidate.text
        for candidate, verdict in pairs
        if verdict.reason in ("kept", "surplus")
        and (verdict.predicted == candidate.label or candidate.mixed or candidate.origin == "user")
    ]
    return tuple(evenly_chosen(typical, MOST_UNSEEN)) if len(typical) >= FEWEST_UNSEEN else ()


def evenly_chosen(items: Sequence[T], most: int) -> list[T]:
    """At most so many, spread over their order."""
    count = min(len(items), most)
    return [items[index * len(items) // count] for index in range(count)]


@cache
def other_subjects() -> tuple[str, ...]:
    """Texts that most tasks have nothing to do with."""
    lines = resources.files("fourshot.pipeline.cells").joinpath(OTHERS_FILE).read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=dict[str, str])["text"] for line in lines)


def _ask(engine: Engine, item: CalibrationItem, texts: Sequence[str]) -> np.ndarray:
    """What the classifier answers: raw log-probabilities [num_texts, num_labels]."""
    return label_scores(engine, item.task, texts, item.form, adapter=item.adapter)


def _read(engine: Engine, item: CalibrationItem, judge: Reader, shots: Sequence[Example]) -> np.ndarray:
    """What a judge answers: log-probabilities among the labels, [num_shots, num_labels]."""
    texts = [shot.text for shot in shots]
    scores = label_scores(engine, item.task, texts, judge.form(item.form), adapter=judge.adapter)
    return np.log(np.maximum(normalise(scores), np.finfo(np.float64).tiny))

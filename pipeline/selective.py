"""Selective classification: a classifier labels only the texts of which it is confident enough.

Source: El-Yaniv & Wiener 2010, "On the Foundations of Noise-free Selective Classification" (the curve of risk against
coverage); Geifman & El-Yaniv 2017, "Selective Classification for Deep Neural Networks" (by the largest probability).
"""

import math
from typing import TYPE_CHECKING, Literal, TypedDict

import msgspec

from fourshot.engine.core import Typed
from fourshot.engine.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

STEPS = 20  # of the curve: 5 %, 10 % ... of the texts
ROUNDED = 1e9  # stored steps from 0 to 1: a confident classifier is closer to 1 than 1e-5


def rounded_down(probability: float) -> float:
    """Round a probability for storage, down: rounded up, a threshold would exclude the text that it comes from."""
    return math.floor(ROUNDED * probability) / ROUNDED


class CoveragePoint(msgspec.Struct, frozen=True, kw_only=True):
    """Threshold and accuracy where only the most confident share of the texts is labelled."""

    coverage: float  # share of the texts that are answered
    threshold: float  # least probability of the label
    accuracy: float  # on the texts that are answered


class CoverageCurve(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy against coverage."""

    # test split: counted there. held-out texts: estimated by calibrated confidence on texts that were not trained on.
    source: Literal["test split", "held-out texts"]
    num_texts: int
    points: tuple[CoveragePoint, ...]  # coverage ascending, the last one is 1

    def threshold(self, coverage: float) -> float:
        """Return the threshold at which about ``coverage`` of texts get labels, linear between points; 0 for all."""
        if coverage >= 1:
            return 0.0
        return self._at(coverage, [point.threshold for point in self.points])

    def accuracy(self, coverage: float) -> float:
        """Return the accuracy on the most confident ``coverage`` of the texts, linear between points."""
        return self._at(coverage, [point.accuracy for point in self.points])

    def _at(self, coverage: float, values: list[float]) -> float:
        import numpy as np

        return float(np.interp(coverage, [point.coverage for point in self.points], values))


def coverage_curve(
    confidence: "ArrayLike", correct: "ArrayLike", source: Literal["test split", "held-out texts"]
) -> CoverageCurve:
    """Return accuracy against coverage, in `STEPS` steps.

    ``confidence`` [n] is the probability of the predicted label, ``correct`` [n] the probability, 0 to 1, that it is
    right. Of equally confident texts, all are labelled or none. Raises ValueError for no texts or unequal lengths.
    """
    import numpy as np

    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.size == 0 or sure.shape != right.shape:
        raise ValueError(f"a curve needs two equally long, non-empty lists, got {sure.shape} and {right.shape}")
    points = {}
    ordered = np.sort(sure)[::-1]
    for step in range(1, STEPS + 1):
        threshold = ordered[max(0, math.ceil(len(sure) * step / STEPS) - 1)]
        answered = sure >= threshold
        share = float(answered.mean())
        points[share] = CoveragePoint(
            coverage=round(share, 4),
            threshold=rounded_down(float(threshold)),
            accuracy=round(float(right[answered].mean()), 4),
        )
    return CoverageCurve(source=source, num_texts=len(sure), points=tuple(points.values()))


class Refusing(TypedDict, total=False):
    """The fields of a `Refusal`, as arguments."""

    abstain_below: float | None
    coverage: float | None
    none_of_these: bool


class Refusal(Typed, frozen=True, kw_only=True):
    """Which texts a caller wants no label for."""

    abstain_below: float | None = None  # least probability of a label that is given
    coverage: float | None = None  # in place of this: the share of texts to label
    none_of_these: bool = False  # texts unlike those of the task get no label

    def __post_init__(self) -> None:
        if self.abstain_below is not None and self.coverage is not None:
            raise InputError("abstain_below and coverage both decide what is answered. Give one of them.")
        if self.abstain_below is not None and not 0 <= self.abstain_below <= 1:
            raise InputError(f"abstain_below is a probability, 0 to 1; got {self.abstain_below}.")
        if self.coverage is not None and not 0 < self.coverage <= 1:
            raise InputError(f"coverage is a share of the texts, above 0 and at most 1; got {self.coverage}.")


Abstained = Literal["", "unsure", "none_of_these"]


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Out-of-scope rule: texts for which no label is likely enough count as none of the task's.

    Source: Larson et al. 2019, "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction", section
    4.1 (a threshold on the likeliest label's probability).
    """

    least_probability: float
    false_rejects: float  # share of the task's own texts that are taken for none
    num_texts: int  # of the task
    false_accepts: float  # share of texts of other subjects that are not
    num_others: int


class AbstentionRule(msgspec.Struct, frozen=True, kw_only=True):
    """When a text gets no label: by the probability of the likeliest one."""

    threshold: float = 0.0  # below it, the label is unsure
    scope: float = 0.0  # below it, the text is none of the task's

    def abstains(self, probability: float) -> Abstained:
        """Return why a text whose likeliest label has this probability gets none; "" where it gets that label."""
        return "none_of_these" if probability < self.scope else "unsure" if probability < self.threshold else ""


def rule_of(refusal: Refusal, curve: CoverageCurve | None, scope: Scope | None) -> AbstentionRule:
    """Return the rule that ``refusal`` means for a classifier with this curve and scope.

    Raises InputError where it requires a curve or a scope that the classifier's card does not have.
    """
    threshold = refusal.abstain_below or 0.0
    if refusal.coverage is not None:
        if curve is None:
            raise InputError(
                "its card has no curve of accuracy against coverage, so the threshold for a coverage is not known. "
                "Give the least probability instead (abstain_below), or train again."
            )
        threshold = curve.threshold(refusal.coverage)
    if refusal.none_of_these and scope is None:
        raise InputError(
            "its card has no out-of-scope rule, so none_of_these is not supported. Leave it out, or train again."
        )
    return AbstentionRule(
        threshold=threshold, scope=scope.least_probability if scope and refusal.none_of_these else 0.0
    )

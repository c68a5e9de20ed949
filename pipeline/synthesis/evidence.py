"""Weights of the kinds of annotators, from their predictions on unseen shots. Needs numpy and scipy only.

Generated texts do not show which annotator is right: agreement with the intended label ranks annotators wrongly
(docs/training.md). Shots that an annotator has not seen do. An adapter is scored on those it was not trained on, the
base model on those that its prompt leaves out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine import calibration as calibrations
from fourshot.engine.calibration import Calibration
from fourshot.pipeline.synthesis.settings import AnnotateSettings, RunSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict

if TYPE_CHECKING:
    import numpy as np

PROBABILITY_FLOOR = 1e-4  # added to an annotator's probability of every label
LOG_FACTORS = (-3.0, 2.5)  # bounds of log(weight / equal weight); underconfident encoders need more than 1
FITTING_STEPS = 200  # of `alignment`
REGULARISATION = 1.0  # regularisation towards equal weights: penalty in nats at e times an equal weight, or 1 / e of it


class KindEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """Weight and held-out accuracy of one kind of annotator: adapters, encoders, or the base model in context."""

    weight: float  # of its mean log-probability
    accuracy: float  # on held-out shots, 0 to 1
    loss: float  # on held-out shots, mean, nats
    num_texts: int  # held-out shots


def shot_folds(labels: Sequence[str], num_folds: int) -> list[int | None]:
    """Return the fold of each shot: those of a class are distributed evenly, in their order.

    None: the shot is never left out, because it is the only one of its class, or there are fewer than two folds.
    """
    counts, num_dealt = Counter(labels), Counter[str]()
    folds: list[int | None] = []
    for label in labels:
        folds.append(num_dealt[label] % num_folds if counts[label] > 1 and num_folds > 1 else None)
        num_dealt[label] += 1
    return folds


def leaves_out_shots(settings: RunSettings, labels: Sequence[str]) -> bool:
    """Return whether each adapter and encoder is trained without some shots, on which its kind is then weighted.

    ``labels``: of all shots. Adapters that see shots lose more without some than weights gain (docs/training-log.md).
    """
    annotate = settings.annotate
    if annotate.weights != "auto":
        return annotate.weights == "held_out"
    has_others = annotate.annotator != "adapters" or annotate.in_context or annotate.num_encoders
    return bool(has_others) or not all(settings.shows_shots(wording, labels) for wording in annotate.wordings)


def bounded_log(probabilities: "np.ndarray") -> "np.ndarray":
    """Return log-probabilities with a lower bound, so that no single annotator outvotes all others."""
    import numpy as np

    return np.log(probabilities + PROBABILITY_FLOOR)


def alignment(
    pairs: Sequence[tuple[Candidate, Verdict]], names: Sequence[str], annotate: AnnotateSettings
) -> dict[str, float]:
    """Return a factor by label; multiplied by these, probabilities predict each label as often as it was intended.

    The same number of texts is generated for each label, by mixed prompts too. A committee that predicts one label much
    more often is biased towards it, and a classifier trained on its probabilities even more. Each count is increased by
    one, so that few texts are not trusted completely. The largest factor is 1; all are 1 without
    ``annotate.distribution_alignment``. Sources: Berthelot et al. 2020, "ReMixMatch: Semi-Supervised Learning with
    Distribution Alignment and Augmentation Anchoring", section 3.1; repeated, which is iterative proportional fitting
    (Deming & Stephan 1940).
    """
    import numpy as np

    drawn = [(candidate, verdict) for candidate, verdict in pairs if candidate.label and verdict.probabilities]
    factors = np.ones(len(names))
    if drawn and annotate.distribution_alignment:
        count = Counter(candidate.label for candidate, _ in drawn)
        targets = np.array([count[name] + 1 for name in names])
        probabilities = np.array([[verdict.probabilities[name] for name in names] for _, verdict in drawn])
        for _ in range(FITTING_STEPS):
            aligned = probabilities * factors
            factors *= targets / ((aligned / aligned.sum(axis=1, keepdims=True)).sum(axis=0) + 1)
    return {name: float(factor / factors.max()) for name, factor in zip(names, factors, strict=True)}


def learnt_probabilities(
    candidate: Candidate,
    probabilities: Mapping[str, float],
    names: Sequence[str],
    annotate: AnnotateSettings,
    factors: Mapping[str, float] | None = None,
) -> tuple[float, ...]:
    """Return the probabilities of the labels ``names`` that a text is learnt with, [num_labels], summing to one.

    The annotators' ``probabilities`` are first multiplied by ``factors``, those of `alignment`. Then they are
    sharpened, because a mean over annotators is underconfident. Source: Berthelot et al. 2019, "MixMatch: A Holistic
    Approach to Semi-Supervised Learning", section 3.2 (guessed labels, temperature 0.5). Finally, the odds of the label
    that the prompt requested, if any, are multiplied by ``annotate.intended_odds``: annotators do not know it.
    """
    intended = "" if candidate.mixed else candidate.label
    aligned = [probabilities[name] * (factors[name] if factors else 1) for name in names]
    largest = max(aligned)
    likely = [(value / largest) ** (1 / annotate.soft_temperature) for value in aligned]
    likely = [
        value * annotate.intended_odds if name == intended else value for name, value in zip(names, likely, strict=True)
    ]
    total = sum(likely)
    return tuple(value / total for value in likely)


def label_prior(held_out: "np.ndarray", targets: "np.ndarray") -> Calibration:
    """Return an annotator's bias towards each label, from its log-probabilities ``held_out`` for texts of known labels.

    ``held_out``: [num_texts, num_labels]; ``targets``: indices of the true labels, [num_texts]. The predicted frequency
    of a label is compared with its true frequency, so a rare label does not count as one that the annotator avoids. One
    text of every label, predicted with certainty, is added, so that few texts are not trusted completely. A label
    without a text gets the neutral value.
    """
    import numpy as np

    num_labels = held_out.shape[1]
    counts = np.bincount(targets, minlength=num_labels)
    preference = (calibrations.normalise(held_out).sum(axis=0) + 1) / ((counts + 1) * num_labels)
    preference[counts == 0] = 1 / num_labels
    return Calibration(method="batch", log_prior=tuple(float(value) for value in np.log(preference)))


def weigh(held_out: "Mapping[str, np.ndarray]", targets: "np.ndarray") -> dict[str, KindEvidence]:
    """Return the weight of each kind's mean log-probability; weights that sum to less than one reduce confidence.

    ``held_out``: by kind, log-probabilities [num_texts, num_labels] for texts it has not seen. ``targets``: indices of
    their labels, [num_texts]. The weights maximise the committee's likelihood of ``targets``, regularised towards equal
    weights because the texts are few. Source: Satopaa et al. 2014, "Combining multiple probability predictions using a
    simple logit model" (weights that need not sum to one), and Wolpert 1992, "Stacked generalization".
    """
    import numpy as np
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    kinds, rows = list(held_out), np.arange(len(targets))
    stacked = np.stack([held_out[kind] for kind in kinds])  # [num_kinds, num_texts, num_labels]

    def loss(probabilities: "np.ndarray") -> float:
        return float(-np.log(probabilities[rows, targets]).sum())

    def regret(log_factors: "np.ndarray") -> float:
        weights = np.exp(log_factors) / len(kinds)
        pooled = calibrations.normalise(np.tensordot(weights, stacked, axes=1))
        return loss(pooled + 1e-12) + REGULARISATION * float((log_factors**2).sum())

    solution = minimize(regret, np.zeros(len(kinds)), method="L-BFGS-B", bounds=[LOG_FACTORS] * len(kinds))
    evidence = {}
    for kind, log_factor in zip(kinds, solution.x, strict=True):
        alone = calibrations.normalise(held_out[kind])
        evidence[kind] = KindEvidence(
            weight=float(np.exp(log_factor) / len(kinds)),
            accuracy=float((alone.argmax(axis=1) == targets).mean()),
            loss=loss(alone + 1e-12) / len(targets),
            num_texts=len(targets),
        )
    return evidence

"""What the shots themselves say of those who read: how far to believe each kind of reader. numpy and scipy only.

Generated texts do not tell which reader is right: how often a reader agrees with the label that a text was drawn for
ranks readers wrongly (docs/training.md). The shots do, as far as a reader has not seen them: an adapter is asked about
those it was not trained on, the base model about those that its prompt leaves out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine import calibration as calibrations
from fourshot.engine.calibration import Calibration
from fourshot.pipeline.synthesis.settings import AnnotateSettings
from fourshot.pipeline.synthesis.types import Candidate, Verdict

if TYPE_CHECKING:
    import numpy as np

DOUBT = 1e-4  # probability that a reader leaves to every label
LOG_FACTORS = (-3.0, 2.5)  # least and most; encoders of the shots are so unsure that they need more than e times
FITTING_STEPS = 200  # of `alignment`
CAUTION = 1.0  # how strongly weights are held to equal ones, in nats at e times an equal weight or an e-th of it


class KindEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """Of one kind of reader: adapters, or the base model in context."""

    weight: float  # of its mean log-probability
    accuracy: float  # on held-out shots, 0 to 1
    loss: float  # there, nats
    num_texts: int


def shot_folds(labels: Sequence[str], num_folds: int) -> list[int | None]:
    """The fold of each shot: those of a class are dealt out evenly, in their order.

    None: never left out, because it is the only one of its class, or because there are fewer than two folds.
    """
    counts, num_dealt = Counter(labels), Counter[str]()
    folds: list[int | None] = []
    for label in labels:
        folds.append(num_dealt[label] % num_folds if counts[label] > 1 and num_folds > 1 else None)
        num_dealt[label] += 1
    return folds


def bounded_log(probabilities: "np.ndarray") -> "np.ndarray":
    """Log-probabilities that do not fall without end: no single reader is to outvote all others."""
    import numpy as np

    return np.log(probabilities + DOUBT)


def alignment(
    pairs: Sequence[tuple[Candidate, Verdict]], names: Sequence[str], annotate: AnnotateSettings
) -> dict[str, float]:
    """By label, the factor for what was read, under which texts are read as often as each label as drawn for it.

    Equally many texts are drawn for each label, by mixed prompts too. A committee that reads one label much more often
    prefers it, and a classifier that learns this prefers it more. Each count is increased by one, so that few texts are
    not believed entirely. The largest factor is 1; all are without ``annotate.distribution_alignment``. Sources:
    Berthelot et al. 2020, "ReMixMatch: Semi-Supervised Learning with Distribution Alignment and Augmentation
    Anchoring", section 3.1; repeated until it holds, which is iterative proportional fitting (Deming & Stephan 1940).
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
    """Of the labels ``names``, [num_labels], summing to one: what is learnt of a text with such ``probabilities``.

    The probabilities are first multiplied by ``factors``, those of `alignment`. Then they are made surer, because a
    mean over readers is less sure than it is right. Source: Berthelot et al. 2019, "MixMatch: A Holistic Approach to
    Semi-Supervised Learning", section 3.2 (guessed labels, temperature 0.5). Then the label that the prompt asked for,
    if it asked for one, is made likelier: readers do not know it.
    """
    intended = "" if candidate.mixed else candidate.label
    aligned = [probabilities[name] * (factors[name] if factors else 1) for name in names]
    likely = [(value / max(aligned)) ** (1 / annotate.soft_temperature) for value in aligned]
    likely = [
        value * annotate.intended_odds if name == intended else value for name, value in zip(names, likely, strict=True)
    ]
    return tuple(value / sum(likely) for value in likely)


def label_prior(held_out: "np.ndarray", targets: "np.ndarray") -> Calibration:
    """Which labels a reader prefers, from its log-probabilities [num_texts, num_labels] for texts of known labels.

    ``targets``: their indices, [num_texts]. What is read as a label is compared with how many texts have it, so that a
    label of few texts does not count as one that the reader avoids. A text of every label for certain is added, so that
    few texts are not believed entirely. Of a label without a text nothing is known.
    """
    import numpy as np

    num_labels = held_out.shape[1]
    counts = np.bincount(targets, minlength=num_labels)
    preference = (calibrations.normalise(held_out).sum(axis=0) + 1) / ((counts + 1) * num_labels)
    preference[counts == 0] = 1 / num_labels
    return Calibration(method="batch", log_prior=tuple(float(value) for value in np.log(preference)))


def weigh(held_out: "Mapping[str, np.ndarray]", targets: "np.ndarray") -> dict[str, KindEvidence]:
    """How much the mean log-probability of each kind counts; sums of weights below one take certainty away.

    ``held_out``: by kind, log-probabilities [num_texts, num_labels] for texts it has not seen; ``targets``: the indices
    of their labels, [num_texts]. The weights are those under which the committee finds ``targets`` likeliest, held to
    equal ones as the texts are few. Source: Satopaa et al. 2014, "Combining multiple probability predictions using a
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
        return loss(pooled + 1e-12) + CAUTION * float((log_factors**2).sum())

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


def evidence_line(evidence: Mapping[str, KindEvidence]) -> str:
    """One line for people."""
    return ", ".join(
        f"{kind} weigh {item.weight:.2f} ({item.accuracy:.0%} of {item.num_texts} held-out shots)"
        for kind, item in evidence.items()
    )

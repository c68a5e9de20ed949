"""Calibration of label probabilities: small models prefer some labels regardless of the text, and are overconfident.

Against the first, a calibration has one number per label, in nats, that is subtracted from the label's log-probability.
Against the second, it has a temperature by which the difference is divided. Uses numpy only.
"""

from typing import TYPE_CHECKING, Literal

import msgspec

from fourshot.engine.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

SMALLEST = 1e-12  # lower bound of probabilities: a label that is never predicted must not become certain

TEMPERATURES = (0.25, 32.0)  # lowest and highest that are tried

CONTENT_FREE = ("N/A", "[MASK]", "")  # Source: Zhao et al. 2021, section 5


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How label probabilities are corrected; stored on the adapter's card."""

    method: Literal["none", "contextual", "batch"] = "none"
    log_prior: tuple[float, ...] = ()  # nats, one per label, in the labels' order; empty for none
    temperature: float = 1.0  # above 1: less confident; the most likely label does not change

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"A temperature must be above 0, got {self.temperature}.")


NONE = Calibration()


def normalise(logprobs: "np.ndarray") -> "np.ndarray":
    """Return probabilities over the labels: float64 [num_prompts, num_labels], each row sums to one.

    ``logprobs`` are nats [num_prompts, num_labels], as returned by `engine.core.Engine.score`.
    """
    import numpy as np

    scores = _checked(logprobs)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def combine_parts(probabilities: "np.ndarray", counts: "Sequence[int]") -> "np.ndarray":
    """Combine the predictions for texts that were classified in parts: float64 [num_texts, num_labels].

    ``probabilities`` is [num_parts, num_labels]; ``counts`` has the number of parts of each text. A text's row is the
    weighted mean of its parts' rows. A part's weight is its information: the entropy of the uniform distribution minus
    the entropy of its row. Parts about something else have little information.
    """
    import numpy as np

    rows = np.asarray(probabilities, dtype=np.float64)
    entropy = -(rows * np.log(np.maximum(rows, SMALLEST))).sum(axis=1)
    weights = np.maximum(np.log(rows.shape[1]) - entropy, SMALLEST)[:, None]
    starts = np.cumsum([0, *counts])[:-1]
    return np.add.reduceat(weights * rows, starts) / np.add.reduceat(weights, starts)


def contextual(content_free_logprobs: "np.ndarray") -> Calibration:
    """Calibrate on the scores of content-free prompts, [num_prompts, num_labels]: their mean probability is the prior.

    Source: Zhao et al. 2021, "Calibrate Before Use", section 5 (W = diag(p_cf)^-1, b = 0; mean over several texts).
    """
    return _from_prior("contextual", normalise(content_free_logprobs).mean(axis=0), None)


def batch(logprobs: "np.ndarray", target_prior: "Sequence[float] | None" = None) -> Calibration:
    """Calibrate on the scores of a batch of real texts, [num_prompts, num_labels]: their mean probability is the prior.

    ``target_prior`` is the share of each label in that batch if known, for example from how the batch was made.
    Without it, all labels are assumed to be equally frequent. Raises InputError if it is not one valid share per label.
    Source: Zhou et al. 2023, "Batch Calibration", equations 4 and 5.
    """
    return _from_prior("batch", normalise(logprobs).mean(axis=0), target_prior)


def fit_temperature(logprobs: "np.ndarray", targets: "np.ndarray") -> float:
    """Return the temperature at which scores [num_prompts, num_labels] have the least cross-entropy with ``targets``.

    ``targets`` are probabilities [num_prompts, num_labels] whose rows sum to one. There is one temperature for all
    labels, because a few texts do not determine more. Source: Guo et al. 2017, "On Calibration of Modern Neural
    Networks", section 4.2 (temperature scaling).
    """
    import numpy as np

    goal = np.asarray(targets)
    return _temperature(
        logprobs, lambda probabilities: -float((goal * np.log(np.maximum(probabilities, SMALLEST))).sum())
    )


def match_confidence(logprobs: "np.ndarray", confidence: float) -> float:
    """Return the temperature at which the mean probability of the most likely labels equals ``confidence``, 0 to 1.

    ``logprobs``: [num_prompts, num_labels]. Only another classifier's mean confidence on the same texts is needed.
    """
    return _temperature(logprobs, lambda probabilities: abs(float(probabilities.max(axis=1).mean()) - confidence))


def _temperature(logprobs: "np.ndarray", loss: "Callable[[np.ndarray], float]") -> float:
    """Return the temperature, of those tried, whose probabilities [num_prompts, num_labels] have the least ``loss``."""
    import numpy as np

    scores = np.log(np.maximum(normalise(logprobs), np.finfo(np.float64).tiny))
    temperatures = np.geomspace(*TEMPERATURES, 400)
    return round(float(min(temperatures, key=lambda temperature: loss(normalise(scores / temperature)))), 4)


def smoothed_targets(labels: "np.ndarray", num_labels: int) -> "np.ndarray":
    """Return smoothed targets for label indices [num_texts]: float64 [num_texts, num_labels].

    The fewer texts, the more goes to other labels: a few texts, all classified correctly, must not imply certainty.
    Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines", section 2.2 (targets of (n + 1) / (n + 2)).
    """
    import numpy as np

    certainty = (len(labels) + 1) / (len(labels) + 2)
    targets = np.full((len(labels), num_labels), (1 - certainty) / max(1, num_labels - 1))
    targets[np.arange(len(labels)), labels] = certainty
    return targets


def apply(calibration: Calibration, logprobs: "np.ndarray") -> "np.ndarray":
    """Return calibrated log-probabilities: float64 [num_prompts, num_labels], nats, rows normalised over the labels."""
    import numpy as np

    scores = _checked(logprobs)
    if calibration.method != "none":
        if len(calibration.log_prior) != scores.shape[1]:
            raise InputError(
                f"A calibration for {len(calibration.log_prior)} labels was applied to scores of {scores.shape[1]}. "
                "Fit it on scores of the same labels."
            )
        scores = scores - np.asarray(calibration.log_prior)
    scores = (scores - scores.max(axis=1, keepdims=True)) / calibration.temperature
    return np.log(np.maximum(normalise(scores), np.finfo(np.float64).tiny))


def _from_prior(
    method: Literal["contextual", "batch"], prior: "np.ndarray", target_prior: "Sequence[float] | None"
) -> Calibration:
    import numpy as np

    log_prior = np.log(np.maximum(prior, SMALLEST))
    if target_prior is not None:
        target = np.asarray(target_prior, dtype=np.float64)
        if target.shape != prior.shape or (target < 0).any() or target.sum() <= 0:
            raise InputError(
                f"The target prior {list(target_prior)} must be {len(prior)} shares, none negative, not all zero."
            )
        log_prior = log_prior - np.log(np.maximum(target / target.sum(), SMALLEST))
    return Calibration(method=method, log_prior=tuple(float(value) for value in log_prior))


def _checked(logprobs: "np.ndarray") -> "np.ndarray":
    import numpy as np

    scores = np.asarray(logprobs, dtype=np.float64)
    if scores.ndim != 2 or scores.size == 0:
        raise InputError(
            f"Scores of shape {scores.shape} cannot be calibrated. At least one prompt and one label are needed: "
            "[num_prompts, num_labels]."
        )
    if not np.isfinite(scores).all():
        raise InputError("Scores hold values that are not finite. Score the prompts again.")
    return scores

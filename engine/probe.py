"""Check that a served adapter reproduces the trainer's predictions.

An adapter that is not applied, or on another base, only looks like a bad classifier. So the trainer records predictions
on a few texts, and the engine that serves the adapter must reproduce them.
"""

from typing import TYPE_CHECKING

import msgspec

from fourshot.engine.calibration import normalise
from fourshot.engine.core import Adapter, Engine, Verbalizer
from fourshot.engine.errors import AdapterError

if TYPE_CHECKING:
    import numpy as np

# Trainer and engine compute in bfloat16, in different order.
TOLERANCE = 0.1


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """The trainer's predictions, right after training."""

    prompts: tuple[str, ...]
    labels: tuple[str, ...]  # words
    verbalizer: Verbalizer = "word"  # which tokens stand for them
    probabilities: tuple[tuple[float, ...], ...]  # by prompt and label; each prompt's sum to one


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """How far served predictions are from the trainer's."""

    difference: float  # the largest, in probability
    texts: int


def check_probe(engine: Engine, adapter: Adapter | None, probe: Probe) -> ProbeResult:
    """Score the probe with ``engine`` and ``adapter``, or with a merged model if ``adapter`` is None.

    Raises AdapterError if a probability differs from the trainer's by more than `TOLERANCE`.
    """
    import numpy as np

    served = normalise(engine.score(list(probe.prompts), list(probe.labels), adapter, probe.verbalizer))
    differences = np.abs(served - np.array(probe.probabilities)).max(axis=1)
    worst = int(differences.argmax())
    if not differences[worst] <= TOLERANCE:
        name, path = (f"The adapter {adapter.name}", adapter.path) if adapter else ("The model", engine.settings.model)
        expected = _answer_text(probe.labels, probe.probabilities[worst])
        answered = _answer_text(probe.labels, served[worst])
        raise AdapterError(
            f"{name} does not predict as it did in training: on {int((differences > TOLERANCE).sum())} of "
            f"{len(differences)} texts probabilities differ by more than {TOLERANCE} (one text: {expected} in "
            f"training, {answered} served). The base or the weights may differ from those in training. Check {path}, "
            "or train it again."
        )
    return ProbeResult(difference=round(float(differences[worst]), 5), texts=len(differences))


def _answer_text(labels: tuple[str, ...], probabilities: "tuple[float, ...] | np.ndarray") -> str:
    best = max(range(len(labels)), key=lambda index: probabilities[index])
    return f"{labels[best]} {float(probabilities[best]):.2f}"

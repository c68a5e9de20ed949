"""Does a served adapter answer as it did in training? One that is not applied, or on another base, looks merely bad.

The trainer writes down what it answers on a few texts; whoever serves the adapter asks the same and compares.
"""

from typing import TYPE_CHECKING

import msgspec

from fourshot.engine.calibration import normalise
from fourshot.engine.core import Adapter, Engine, Verbalizer
from fourshot.engine.errors import AdapterError

if TYPE_CHECKING:
    import numpy as np

# Both compute in bfloat16, in another order.
TOLERANCE = 0.1


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What the trainer answered, right after training."""

    prompts: tuple[str, ...]
    labels: tuple[str, ...]  # words
    verbalizer: Verbalizer = "word"  # what was said for them
    probabilities: tuple[tuple[float, ...], ...]  # by prompt and label; each prompt's sum to one


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """How far served answers are from the trainer's."""

    difference: float  # the largest, in probability
    texts: int


def check_probe(engine: Engine, adapter: Adapter | None, probe: Probe) -> ProbeResult:
    """Ask ``engine`` what the trainer was asked, of ``adapter`` or, without one, of a merged model.

    Raises AdapterError where answers differ by more than `TOLERANCE`.
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
            f"{name} does not answer as it did in training: on {int((differences > TOLERANCE).sum())} of "
            f"{len(differences)} texts probabilities differ by more than {TOLERANCE} (one text: {expected} in "
            f"training, {answered} served). Base or weights may not be those it was trained with. Look at {path}, or "
            "train it again."
        )
    return ProbeResult(difference=round(float(differences[worst]), 5), texts=len(differences))


def _answer_text(labels: tuple[str, ...], probabilities: "tuple[float, ...] | np.ndarray") -> str:
    best = max(range(len(labels)), key=lambda index: probabilities[index])
    return f"{labels[best]} {float(probabilities[best]):.2f}"

"""The scores of a classifier.

Importing this module loads neither torch nor vllm.
"""

import msgspec


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of a classifier on a test split."""

    n: int
    accuracy: float
    macro_f1: float
    ece: float  # expected calibration error, 15 equal-width bins
    surest_80: float | None = None  # accuracy on the most confident 80 % of the texts
    ece_before: float | None = None  # ece without the temperature; None: the classifier was not calibrated
    interval: tuple[float, float]  # 95 % Wilson interval of the accuracy
    seconds: float  # inside the engine
    prompt_tokens: int
    cached_tokens: int

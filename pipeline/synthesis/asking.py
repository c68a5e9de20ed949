"""Which texts a person's label would help most: those that the annotators are unsure of, and unlike each other."""

import warnings
from collections.abc import Sequence

import numpy as np

UNSURE_PER_TEXT = 10  # so many of the least sure texts are looked at for each that is asked about


def texts_to_ask(vectors: np.ndarray, entropies: Sequence[float], count: int, seed: int) -> list[int]:
    """``count`` of the texts, by index, least sure first; all where there are no more.

    The least sure ones are grouped into ``count`` clusters, and of each the text in the middle is asked about: it
    stands for others. ``vectors`` float [num_texts, width], unit length; ``entropies`` of the annotators'
    probabilities, nats [num_texts]. Source: Zhdanov 2019, "Diverse mini-batch Active Learning", section 3.2.
    """
    from scipy.cluster.vq import kmeans2  # type: ignore[import-untyped]

    order = sorted(range(len(entropies)), key=lambda index: -entropies[index])
    if count >= len(order):
        return order
    unsure = order[: UNSURE_PER_TEXT * count]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts that are all alike: clusters stay empty
        centres, cluster = kmeans2(vectors[unsure].astype(np.float64), count, minit="++", rng=seed, missing="warn")
    chosen = []
    for number, centre in enumerate(centres):
        members = [index for index, assignment in zip(unsure, cluster, strict=True) if assignment == number]
        if members:
            chosen.append(min(members, key=lambda index: float(((vectors[index] - centre) ** 2).sum())))
    spare = (index for index in order if index not in chosen)  # an empty cluster leaves its place to the least sure
    chosen += [next(spare) for _ in range(count - len(chosen))]
    return sorted(chosen, key=order.index)

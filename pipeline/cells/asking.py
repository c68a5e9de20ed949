"""Select texts for a person to label: those the annotators are unsure of, and that are unlike each other."""

import warnings
from collections.abc import Sequence

import numpy as np

UNSURE_PER_TEXT = 10  # least certain texts that are considered for each one to be selected


def select_for_labelling(vectors: np.ndarray, entropies: Sequence[float], count: int, seed: int) -> list[int]:
    """Return the indices of ``count`` texts, least certain first; of all texts if there are no more than that.

    The least certain texts are grouped into ``count`` clusters. The text nearest to each cluster's centre is selected,
    because it represents the others. ``vectors``: float [num_texts, width], unit length. ``entropies``: of the
    annotators' probabilities, nats, [num_texts]. Source: Zhdanov 2019, "Diverse mini-batch Active Learning",
    section 3.2.
    """
    from scipy.cluster.vq import kmeans2  # type: ignore[import-untyped]

    order = sorted(range(len(entropies)), key=lambda index: -entropies[index])
    if count >= len(order):
        return order
    unsure = order[: UNSURE_PER_TEXT * count]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clusters stay empty if the texts are all alike
        centres, cluster = kmeans2(vectors[unsure].astype(np.float64), count, minit="++", rng=seed, missing="warn")
    chosen = []
    for number, centre in enumerate(centres):
        members = [index for index, assignment in zip(unsure, cluster, strict=True) if assignment == number]
        if members:
            chosen.append(min(members, key=lambda index: float(((vectors[index] - centre) ** 2).sum())))
    spare = (index for index in order if index not in chosen)  # the least certain of them replace empty clusters
    chosen += [next(spare) for _ in range(count - len(chosen))]
    return sorted(chosen, key=order.index)

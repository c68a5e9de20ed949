"""Which candidates a report shows: a few of many, spread over classes and reasons, the same ones for the same seed."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from fourshot.pipeline.synthesis.types import Candidate, Verdict

Judged = tuple[Candidate, Verdict]


def pick_examples(judged: Sequence[Judged], count: int, seed: int) -> list[Judged]:
    """Up to ``count`` pairs, ordered by reason, class and id.

    Each pick comes from the class and reason that have been shown least, so a rare reason is not drowned by a
    frequent one.
    """
    dice = random.Random(seed)
    groups: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for pair in dice.sample(judged, len(judged)):
        groups[pair[1].reason, pair[0].label].append(pair)
    shown: Counter[tuple[str, str]] = Counter()
    picked: list[Judged] = []
    while groups and len(picked) < count:
        reason, label = group = min(
            groups, key=lambda key: shown[key] + shown["reason", key[0]] + shown["label", key[1]]
        )
        picked.append(groups[group].pop())
        shown.update([group, ("reason", reason), ("label", label)])
        if not groups[group]:
            del groups[group]
    return sorted(picked, key=lambda pair: (pair[1].reason, pair[0].label, pair[0].id))

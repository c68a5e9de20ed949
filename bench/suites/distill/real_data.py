"""How much real data a teacher and its student start from: a number per class, a share of the train split, or all."""

import random
from collections import Counter
from collections.abc import Sequence

from fourshot.engine.errors import InputError
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.shots import draw_shots

ALL = "all"


def check_real(real: str) -> None:
    """Raise InputError for what says no amount of real data."""
    number = real.removesuffix("%")
    is_share = real.endswith("%")
    if real == ALL or (number.isascii() and number.isdigit() and 0 < int(number) <= (100 if is_share else 10**9)):
        return
    raise InputError(f"--real {real}: give a number per class, a share from 1% to 100%, or all.")


def real_examples(train: Sequence[Example], labels: Sequence[str], real: str, seed: int) -> list[Example]:
    """The real examples of one draw. A share has the classes as they are in the data, each at least once."""
    if real == ALL:
        return list(train)
    if not real.endswith("%"):
        return draw_shots(train, labels, int(real), seed, allow_fewer=True)
    shuffled = list(train)
    random.Random(f"{seed}/share").shuffle(shuffled)
    count = max(1, len(shuffled) * int(real.removesuffix("%")) // 100)
    chosen = shuffled[:count]
    label_counts = Counter(example.label for example in chosen)
    first = {example.label: example for example in reversed(shuffled)}  # of each label
    return chosen + [first[label] for label in labels if label in first and not label_counts[label]]

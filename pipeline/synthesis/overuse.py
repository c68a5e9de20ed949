"""Words that the texts of a class use more often than its real examples do, and how far to push them down.

Importing this module loads neither torch nor vllm.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from fourshot.pipeline.rows.fields import bare_text
from fourshot.pipeline.synthesis.filters import bare_shots
from fourshot.pipeline.synthesis.words import spelt_words
from fourshot.pipeline.task import Example, Task

FEWEST_TEXTS = 16  # before that, a share says little


class WordUse:
    """In how many texts of one class each word occurs, as it is spelt.

    A word may have the share among the texts that it has among the class's shots, or among all shots where that is
    larger; both counted with one shot more that has it and one that lacks it. The bias of a word above that is
    ``-strength * ln(share / allowed)``: for a strength of 1, what would bring a word back that is drawn once a text,
    and it grows with the share.

    Source: Chung et al. 2023, "Increasing Diversity While Maintaining Accuracy", section 3 (logit suppression): the
    more often a token was generated, the lower its logit. There the share itself counts; here the words that real
    texts need as often are left alone.
    """

    def __init__(self, task: Task, shots: Sequence[Example], label: str, strength: float) -> None:
        """``shots``: of all classes; ``label``: the class."""
        self._task, shots = task, bare_shots(task, shots)
        class_shots = [shot for shot in shots if shot.label == label]
        self._otherwise = 1 / (len(class_shots) + 2)
        self._allowed: dict[str, float] = {}
        for group in (class_shots, shots):
            for word, count in Counter(word for shot in group for word in spelt_words(shot.text)).items():
                self._allowed[word] = max(self._allowed.get(word, self._otherwise), (count + 1) / (len(group) + 2))
        self._strength = strength
        self._counts: Counter[str] = Counter()
        self._texts = 0

    def add(self, texts: Iterable[str]) -> None:
        """Count more texts."""
        for text in texts:
            self._counts.update(spelt_words(bare_text(self._task, text)))
            self._texts += 1

    def biases(self) -> tuple[tuple[str, float], ...]:
        """Nats by word, of the over-used ones, the strongest first."""
        if self._texts < FEWEST_TEXTS:
            return ()
        over = (
            (word, math.log(count / self._texts / self._allowed.get(word, self._otherwise)))
            for word, count in self._counts.items()
            if count > self._otherwise * self._texts
        )
        biases = [(word, -round(self._strength * excess, 4)) for word, excess in over if excess > 0]
        return tuple(sorted(biases, key=lambda item: (item[1], item[0])))

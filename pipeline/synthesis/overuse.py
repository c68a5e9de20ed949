"""Words that the texts of a class use more often than its real examples do, and the biases that suppress them.

Importing this module loads neither torch nor vllm.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from fourshot.pipeline.rows.fields import bare_text
from fourshot.pipeline.synthesis.filters import bare_shots
from fourshot.pipeline.synthesis.words import spelt_words
from fourshot.pipeline.task import Example, Task

FEWEST_TEXTS = 16  # of fewer texts, a word's share is too uncertain


class WordUse:
    """Number of texts of one class in which each word occurs, as it is spelt.

    The allowed share of a word is its share among the class's shots, or among all shots if that is larger. Both are
    counted with one more shot that has the word and one that lacks it. A word with a larger share of the texts gets the
    bias ``-strength * ln(share / allowed)``, which grows with the share. With a strength of 1, it would restore the
    allowed share of a word that is sampled once a text.

    Source: Chung et al. 2023, "Increasing Diversity While Maintaining Accuracy", section 3 (logit suppression): the
    more often a token was generated, the lower its logit. There the share itself counts; here words that real texts
    use as often are not suppressed.
    """

    def __init__(self, task: Task, shots: Sequence[Example], label: str, strength: float) -> None:
        """``shots``: of all classes; ``label``: the class whose texts are counted; ``strength``: of the biases."""
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
        """Count the words of further texts."""
        for text in texts:
            self._counts.update(spelt_words(bare_text(self._task, text)))
            self._texts += 1

    def biases(self) -> tuple[tuple[str, float], ...]:
        """Return (word, bias in nats) of over-used words, strongest first; none before `FEWEST_TEXTS` texts."""
        if self._texts < FEWEST_TEXTS:
            return ()
        over = (
            (word, math.log(count / self._texts / self._allowed.get(word, self._otherwise)))
            for word, count in self._counts.items()
            if count > self._otherwise * self._texts
        )
        biases = [(word, -round(self._strength * excess, 4)) for word, excess in over if excess > 0]
        return tuple(sorted(biases, key=lambda item: (item[1], item[0])))

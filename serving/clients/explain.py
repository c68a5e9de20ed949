"""Why a text got its label: the training examples most similar to it, and the predictions with other wordings.

Similarity is the cosine of the adapted model's last hidden states, from which labels are predicted, after the mean over
the examples is subtracted. Source: Mu & Viswanath 2018, "All-but-the-Top: Simple and Effective Postprocessing for Word
Representations" (what all representations have in common is not informative).
"""

import contextlib
import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine.machine.files import replace_file
from fourshot.engine.machine.home import home
from fourshot.pipeline.card import AdapterCard, TrainingText
from fourshot.pipeline.events import Event, OnEvent

if TYPE_CHECKING:
    import numpy as np

STAGE = "explain"  # of its events
NEAREST = 5
OnRead = Callable[[int], None]  # gets the number of prompts done so far
States = Callable[[Sequence[str], OnRead], "np.ndarray"]  # prompts -> [num_prompts, hidden_size]


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """A training example of the classifier."""

    text: str
    label: str
    kind: str  # "shot" or "synthetic"
    similarity: float  # cosine, -1 to 1


class WordingScores(msgspec.Struct, frozen=True, kw_only=True):
    """The prediction with one wording of the prompt."""

    label: str
    probability: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The explanation of one prediction."""

    nearest: tuple[Neighbour, ...]  # the most similar first
    wordings: dict[str, WordingScores]  # of the prompt; the adapter was trained on the first of them


class ExampleIndex:
    """Hidden states of a classifier's training examples: computed once, and stored in fourshot's home."""

    def __init__(self, card: AdapterCard, learnt: Sequence[TrainingText], states: States, on_event: OnEvent) -> None:
        self._learnt, self._states = learnt, states
        prompts = [card.prompt(example.text) for example in learnt]
        content_hash = hashlib.sha256("\0".join(prompts).encode()).hexdigest()[:12]
        file = home() / "states" / f"{card.name}-{content_hash}.npy".rpartition("/")[2]  # a card may have any name
        import numpy as np

        try:
            kept = np.load(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # missing or incomplete
            kept = None
        if isinstance(kept, np.ndarray) and kept.ndim == 2 and len(kept) == len(prompts):
            self._example_states = kept
        else:
            self._example_states = states(
                prompts,
                lambda done: on_event(
                    Event(stage=STAGE, message="training texts", done=done, total=len(prompts), unit="texts")
                ),
            )
            content = io.BytesIO()
            np.save(content, self._example_states)
            with contextlib.suppress(OSError):  # the file only saves time
                replace_file(file, content.getvalue())
        self._mean = self._example_states.mean(axis=0)

    def nearest(self, prompts: Sequence[Sequence[str]], count: int = NEAREST) -> list[tuple[Neighbour, ...]]:
        """Return for each text the ``count`` examples nearest to any of its ``prompts``, the most similar first."""
        import numpy as np

        states = self._states([prompt for parts in prompts for prompt in parts], lambda _: None)
        starts = [0, *accumulate(len(parts) for parts in prompts)][:-1]
        similar = np.maximum.reduceat(_unit(states - self._mean) @ _unit(self._example_states - self._mean).T, starts)
        return [
            tuple(
                Neighbour(
                    text=self._learnt[index].text,
                    label=self._learnt[index].label,
                    kind=self._learnt[index].kind,
                    similarity=round(float(row[index]), 3),
                )
                for index in np.argsort(-row, kind="stable")[:count]
            )
            for row in similar
        ]


def _unit(rows: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

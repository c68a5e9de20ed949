"""An engine that answers at once, without a model: what remains of the time is ours. Tests of scheduling use it too.

Its texts follow from the request's seed and the class that the prompt asks for, and from nothing else, so they are the
same whatever shares their batch. It re-labels by a word that the text carries, and is sometimes of another opinion.
"""

import re
import time
import zlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from fourshot.engine import seeds
from fourshot.engine.core import Completion, EngineSettings, EngineStats, PerPromptAdapter, Sampling

if TYPE_CHECKING:
    import numpy as np

SYLLABLES = ("ba", "do", "fi", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wa", "xe", "zu")
WORDS = tuple(a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES)  # 4,096: twelve bits of a seed
NUM_WORDS = 12
DISAGREES = 8  # one text of so many is read as another class
_ASKED = re.compile(r"Label: ([^\n]*)\n\n(?:[A-Z][a-z]+: [^\n]*\n)*Text:$")  # lines between: attributes


class StandIn:
    """Instead of a base model."""

    def __init__(self, settings: EngineSettings, pause_s: float = 0.0) -> None:
        """``pause_s``: per text."""
        self.settings, self._pause_s = settings, pause_s
        self._requests = self._prompt_tokens = self._output_tokens = 0

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None
    ) -> Generator[Completion, None, None]:
        for i, prompt in enumerate(prompts):
            asked = _ASKED.search(prompt)
            word = asked[1] if asked else ""
            for j in range(sampling.n):
                self._count(prompt, NUM_WORDS)
                if self._pause_s:
                    time.sleep(self._pause_s)
                yield Completion(
                    prompt_index=i,
                    sample_index=j,
                    text=f" {_text(seeds.derive(sampling.seed or 0, i, j), word)}",
                    num_tokens=NUM_WORDS,
                    cumulative_logprob=-3.0 * NUM_WORDS,
                    finish_reason="stop",
                )

    def score(self, prompts: Sequence[str], labels: Sequence[str], adapter: PerPromptAdapter = None) -> "np.ndarray":
        import numpy as np

        scores = np.full((len(prompts), len(labels)), -4.0, dtype=np.float32)
        for i, prompt in enumerate(prompts):
            self._count(prompt, 1)
            text = prompt[prompt.rfind("\nText:") : -len("\nLabel:")].rstrip(".")
            meant = next((k for k, label in enumerate(labels) if text.endswith(f" {label}")), 0)
            checksum = zlib.crc32(text.encode())
            if checksum % DISAGREES == 0:
                meant = checksum // DISAGREES % len(labels)
            scores[i, meant] = -0.5
        return scores

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) // 4 for text in texts]

    def reset_prefix_cache(self) -> None:
        pass

    def stats(self) -> EngineStats:
        return EngineStats(
            prompt_tokens=self._prompt_tokens, output_tokens=self._output_tokens, requests=self._requests
        )

    def close(self) -> None:
        pass

    def _count(self, prompt: str, output_tokens: int) -> None:
        self._requests += 1
        self._prompt_tokens += len(prompt) // 4
        self._output_tokens += output_tokens


def open_stand_in(settings: EngineSettings) -> StandIn:
    """In place of `engine.opening.open_engine`."""
    return StandIn(settings)


def open_slow_stand_in(settings: EngineSettings) -> StandIn:
    """One that takes 2 ms for a text: long enough to be killed in the middle."""
    return StandIn(settings, pause_s=0.002)


def _text(seed: int, word: str) -> str:
    """Twelve words; a number of 63 bits gives five, its neighbours' mixtures the rest."""
    mixed = (
        seed | (seed * 0x9E3779B97F4A7C15 & (1 << 64) - 1) << 64 | (seed * 0xC2B2AE3D27D4EB4F & (1 << 64) - 1) << 128
    )
    return " ".join([WORDS[mixed >> 12 * k & 4095] for k in range(NUM_WORDS)]) + f" {word}."

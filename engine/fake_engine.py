"""`FakeEngine`: answers at once, without a model. For tests of the code around an engine, and to measure its cost.

Its texts depend only on the request's seed and the requested class, not on their batch. It scores labels by a word of
the text that names the class, with deliberate disagreements.

``EngineSettings(kind="fake")`` and the base model "fake" select it. Users can too: a corpus of the fake model shows in
seconds what its files look like. "fake:delay_s=0.01;unreadable=ba" sets two fields of `FakeSettings`. Delays and
failures change no text, so all of these count as one model.
"""

import os
import re
import time
import zlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine import seeds
from fourshot.engine.core import Completion, EngineSettings, EngineStats, PerPromptAdapter, Sampling, Verbalizer
from fourshot.engine.errors import FourshotError, InputError

if TYPE_CHECKING:
    import numpy as np

FAKE = "fake"  # the base model's name
SYLLABLES = ("ba", "do", "fi", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wa", "xe", "zu")
WORDS = tuple(a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES)  # 4,096: twelve bits of a seed each
NUM_WORDS = 12
DISAGREES = 8  # one text in this many gets an arbitrary label instead
# The last label of a prompt, and the name of the field to be generated; the lines between them are attributes.
_REQUEST = re.compile(r"Label: ([^\n]*)\n\n(?:[A-Z][a-z]+: [^\n]*\n)*([^\n]+:)$")


class FakeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Delays and failures of the fake engine."""

    delay_s: float = 0.0  # per text
    otherwise: str = ""  # the answer to a prompt that requests no text of a class; "" for random words
    unreadable: str = ""  # a text that contains this is rejected as too long when it is scored
    dies_of: str = ""  # the class at whose first prompt the process ends, as in a crash
    dies_on_opening: bool = False
    fails_on_opening: bool = False
    fails_where: str = ""  # NAME=VALUE: opening fails if the environment variable has this value
    first_fails: str = ""  # a folder to create: opening fails in the engine that creates it, and in no later one


def is_fake(model: str) -> bool:
    """Whether ``model`` names the fake engine."""
    return model == FAKE or model.startswith(f"{FAKE}:")


def fake_settings(model: str) -> FakeSettings:
    """Parse a name like "fake:delay_s=0.01;unreadable=ba". Raises InputError for an unknown field or a wrong value."""
    pairs = [pair.partition("=")[::2] for pair in model.removeprefix(f"{FAKE}:").split(";")] if ":" in model else []
    try:
        return msgspec.convert(dict(pairs), FakeSettings, strict=False)
    except msgspec.ValidationError as error:
        allowed = ", ".join(FakeSettings.__struct_fields__)
        raise InputError(f"The fake model {model!r} has wrong settings: {error}. Allowed are {allowed}.") from error


class FakeEngine:
    """An `engine.core.Engine` without a base model."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._fake = fake_settings(settings.model) if is_fake(settings.model) else FakeSettings()
        self._requests = self._prompt_tokens = self._output_tokens = 0
        if self._fake.dies_on_opening:
            print("no memory for weights", flush=True)
            os._exit(3)
        variable, _, value = self._fake.fails_where.partition("=")
        fails = self._fake.fails_on_opening or (variable and os.environ.get(variable) == value)
        if fails or (self._fake.first_fails and _is_first(Path(self._fake.first_fails))):
            raise FourshotError("this machine has no driver")

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None
    ) -> Generator[Completion, None, None]:
        if self._fake.dies_of and any(f"Label: {self._fake.dies_of}\n" in prompt for prompt in prompts):
            os._exit(1)
        return self._sample(prompts, sampling)

    def _sample(self, prompts: Sequence[str], sampling: Sampling) -> Generator[Completion, None, None]:
        for i, prompt in enumerate(prompts):
            request = _REQUEST.search(prompt)
            for j in range(sampling.n):
                self._count(prompt, NUM_WORDS)
                if self._fake.delay_s:
                    time.sleep(self._fake.delay_s)
                drawn = seeds.derive(sampling.seed or 0, sampling.seed_offset + i, j)
                if request and request[2] != "Text:":
                    example = prompt[prompt.rfind(f"\n{request[2]}", 0, request.start()) + 1 : request.start()]
                    text = _lines(drawn, request[1], example)
                else:
                    text = _text(drawn, request[1] if request else "")
                yield Completion(
                    prompt_index=i,
                    sample_index=j,
                    text=f" {text}" if request or not self._fake.otherwise else f" {self._fake.otherwise}",
                    num_tokens=NUM_WORDS,
                    cumulative_logprob=-3.0 * NUM_WORDS,
                    finish_reason="stop",
                )

    def score(
        self,
        prompts: Sequence[str],
        labels: Sequence[str],
        adapter: PerPromptAdapter = None,
        verbalizer: Verbalizer = "word",
    ) -> "np.ndarray":
        import numpy as np

        scores = np.full((len(prompts), len(labels)), -4.0, dtype=np.float32)
        for i, prompt in enumerate(prompts):
            self._count(prompt, 1)
            begin = prompt.rfind("\nText:")
            text = prompt[begin if begin >= 0 else prompt.rfind("\n\n") : -len("\nLabel:")].rstrip(".")
            if self._fake.unreadable and self._fake.unreadable in text:
                raise InputError("a prompt has too many tokens")
            ends = (k for k, label in enumerate(labels) if text.endswith(f" {label}"))
            column = max(ends, key=lambda k: len(labels[k]), default=0)  # "play music" ends in "music", too
            checksum = zlib.crc32(text.encode())
            if checksum % DISAGREES == 0:
                column = checksum // DISAGREES % len(labels)
            scores[i, column] = -0.5
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


def _is_first(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _lines(seed: int, word: str, example: str) -> str:
    """Return a text with the field names of ``example`` and as many words per line, at least three, then ``word``."""
    lines = []
    for number, line in enumerate(example.splitlines()):
        name, _, value = line.partition(":")
        count = max(3, len(value.split()))
        parts = (_text(seeds.derive(seed, number, part), "") for part in range(1 + count // NUM_WORDS))
        words = " ".join(" ".join(part.split()[:NUM_WORDS]) for part in parts).split()[:count]
        lines.append(f"\n{name}: {' '.join(words)}" if number else " ".join(words))
    return "".join(lines) + f" {word}."


def _text(seed: int, word: str) -> str:
    """Return twelve words and ``word``. The 63 bits of ``seed`` give five of them, two products of it the rest."""
    mixed = (
        seed | (seed * 0x9E3779B97F4A7C15 & (1 << 64) - 1) << 64 | (seed * 0xC2B2AE3D27D4EB4F & (1 << 64) - 1) << 128
    )
    return " ".join([WORDS[mixed >> 12 * k & 4095] for k in range(NUM_WORDS)]) + f" {word}."

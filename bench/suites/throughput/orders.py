"""What is said between the throughput suite and the ways of drawing that it measures.

Importing this module loads neither torch nor vllm.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.core import EngineSettings, Sampling
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.tasks.types import Example, Task


class WayOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Which way, and what it is opened with."""

    way: str
    engine: EngineSettings
    vllm: dict[str, Any] = {}  # of vLLM alone: arguments in place of ours


class Draws(msgspec.Struct, frozen=True, kw_only=True):
    """What to draw. ``prompts`` are those that `pipeline.synthesis.generate.draw_round` makes for this round."""

    task: Task
    shots: tuple[Example, ...]
    settings: RunSettings
    round_number: int
    prompts: tuple[str, ...]
    labels: tuple[str, ...]  # that each prompt asks for
    sampling: Sampling
    batch: int = 0  # of transformers
    folder: str = ""  # of a corpus


class Said(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One text."""

    label: str
    text: str
    num_tokens: int  # with the one that ended it
    finish_reason: str


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    seconds: float
    first_s: float  # until the first text was in the caller's hands
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    texts: tuple[Said, ...] = ()
    kept: int = -1  # of a corpus, which has judged them itself
    drawn: int = 0  # of a corpus
    start_s: float = 0.0  # of a corpus, which opens its engine itself
    peak_bytes: int = 0  # the most memory that the process has held so far; of a corpus, with its engine's process


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """It is open."""

    start_s: float


Draw = Callable[[Draws], Drawn]


def drawn_from(draws: Draws, texts: Sequence[tuple[str, int, str]], seconds: float, **counted: Any) -> Drawn:
    return Drawn(
        seconds=seconds,
        output_tokens=sum(tokens for _, tokens, _ in texts),
        texts=tuple(
            Said(label=label, text=text, num_tokens=tokens, finish_reason=reason)
            for label, (text, tokens, reason) in zip(draws.labels, texts, strict=True)
        ),
        peak_bytes=peak_bytes(),
        **counted,
    )


def peak_bytes() -> int:
    """Of this process. Not ``ru_maxrss``, which begins with what the parent held."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))

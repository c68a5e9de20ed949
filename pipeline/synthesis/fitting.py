"""Selection of the shots that fit into a prompt: with many classes, or long texts, not all of them do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fourshot.engine.core import Adapter, Engine
from fourshot.engine.errors import InputError
from fourshot.pipeline.synthesis.aligned import aligned
from fourshot.pipeline.synthesis.prompt_style import ANSWER_TOKENS, in_turn
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.pipeline.synthesis.windows import label_scores, parts_of
from fourshot.pipeline.task import Example, Task

if TYPE_CHECKING:
    import numpy as np

SEAM_TOKENS = 8  # a prompt may have so many more than its parts, where these meet


class NoRoomError(InputError):
    """A prompt has no room for a shot of every class, so some labels would be missing from the context."""


def check_room(engine: Engine, shots: Sequence[Example], shown: Sequence[Example]) -> None:
    """Raise `NoRoomError` if none of a class's ``shots`` is among those that are ``shown``."""
    classes, shown_classes = ({shot.label for shot in examples} for examples in (shots, shown))
    if classes != shown_classes:
        raise NoRoomError(
            f"a prompt of {engine.settings.max_model_len:,} tokens has no room for one shot of each of {len(classes)} "
            f"classes before the longest text; {len(shown_classes)} fit."
        )


def prompt_fits(engine: Engine, prompt: str, max_tokens: int) -> bool:
    """Return whether the engine's context has room for ``prompt`` and an answer of ``max_tokens``."""
    room = engine.settings.max_model_len - max_tokens
    if len(prompt.encode()) + 8 < room:  # a token is at least a byte, except a few in front; counting is slow
        return True
    return engine.count_tokens([prompt])[0] <= room


def longest_of(engine: Engine, task: Task, form: PromptFormat, texts: Sequence[str]) -> str:
    """Return the text with the most tokens, as prompts show it."""
    shown = engine.count_tokens([form.shown_input(task, text) for text in texts])
    return max(zip(shown, texts, strict=True))[1]


def shots_that_fit(
    engine: Engine, task: Task, shots: Sequence[Example], form: PromptFormat, texts: Sequence[str]
) -> tuple[Example, ...]:
    """Return as many of ``shots`` as fit before the longest of ``texts``, in their original order.

    If not all fit, one of every class is taken, then a second of each, and so on. The longest text is the one with the
    most tokens as prompts show it: long texts are cut.
    """
    if not shots:
        return ()
    longest = longest_of(engine, task, form, texts)
    turns = in_turn(task, shots)

    def first(number: int) -> tuple[Example, ...]:
        first_turns = set(turns[:number])
        return tuple(shot for shot in shots if shot in first_turns)

    def fits(number: int) -> bool:
        (tokens,) = engine.count_tokens([classification_prompt(task, longest, form, first(number))])
        return tokens + ANSWER_TOKENS <= engine.settings.max_model_len

    if fits(len(turns)):
        return tuple(shots)
    least, most = 0, len(turns)  # a number that fits, and one that does not
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return first(least)


def scores_behind_shots(
    engine: Engine,
    task: Task,
    texts: Sequence[str],
    form: PromptFormat,
    shots: Sequence[Example],
    adapter: Adapter | None,
    filler_for: str | None,
) -> "np.ndarray":
    """Return `label_scores` behind ``shots``, with filler that leaves room for the text ``filler_for``; None: without.

    A text that leaves no room for all shots is scored behind fewer, without filler: a user's text may be longer than
    any candidate, and a candidate may have more tokens than a shot of its length.
    """
    import numpy as np

    filled = form if filler_for is None else aligned(form, task, engine.settings, shots, filler_for)
    cramped = _cramped(engine, task, texts, filled, shots)
    if not cramped:
        return label_scores(engine, task, texts, filled, shots, adapter)
    groups: dict[tuple[PromptFormat, tuple[Example, ...]], list[int]] = {}
    for index, text in enumerate(texts):
        shown = shots_that_fit(engine, task, shots, form, parts_of(task, text, form)) if index in cramped else shots
        groups.setdefault((form if index in cramped else filled, tuple(shown)), []).append(index)
    scores = [
        label_scores(engine, task, [texts[index] for index in group], of_group, shown, adapter)
        for (of_group, shown), group in groups.items()
    ]
    return np.concatenate(scores)[np.argsort(np.concatenate([*groups.values()]))]


def _cramped(
    engine: Engine, task: Task, texts: Sequence[str], form: PromptFormat, shots: Sequence[Example]
) -> set[int]:
    """Return the indices of the texts for which a prompt with ``shots`` may have no room."""
    (before,) = engine.count_tokens([classification_prompt(task, "", form, shots)])
    room = engine.settings.max_model_len - ANSWER_TOKENS - SEAM_TOKENS - before
    parts = [(index, part) for index, text in enumerate(texts) for part in parts_of(task, text, form)]
    shown = [(index, form.shown_input(task, part)) for index, part in parts]
    long = [(index, text) for index, text in shown if len(text.encode()) > room]  # a token is at least a byte
    counts = engine.count_tokens([text for _, text in long])
    return {index for (index, _), tokens in zip(long, counts, strict=True) if tokens > room}

"""Selection of the shots that fit into a prompt: with many classes, or long texts, not all of them do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine.core import Adapter, Engine
from fourshot.engine.errors import InputError
from fourshot.pipeline.synthesis.prompt_style import ANSWER_TOKENS, in_turn
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.pipeline.synthesis.windows import label_scores, parts_of
from fourshot.pipeline.task import Example, Task

if TYPE_CHECKING:
    import numpy as np


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
    adapter: Adapter | None = None,
) -> "np.ndarray":
    """Return `label_scores` with ``shots`` in the prompts; a text for which all leave no room gets as many as fit.

    Such a text is longer than the one that the shots were chosen for: a user's, or one of more tokens than usual.
    """
    import numpy as np

    if not (shots and texts):
        return label_scores(engine, task, texts, form, shots, adapter)
    parts = [parts_of(task, text, form) for text in texts]
    tokens = iter(engine.count_tokens([form.shown_input(task, part) for group in parts for part in group]))
    longest = [max(next(tokens) for _ in group) for group in parts]
    (before,) = engine.count_tokens([classification_prompt(task, "", form, shots)])
    prompts: dict[tuple[PromptFormat, tuple[Example, ...]], list[int]] = {}
    for index, (length, group) in enumerate(zip(longest, parts, strict=True)):
        has_room = before + length + ANSWER_TOKENS <= engine.settings.max_model_len
        prompt = (form, tuple(shots)) if has_room else _fitting_prompt(engine, task, shots, form, group)
        prompts.setdefault(prompt, []).append(index)
    rows = [label_scores(engine, task, [texts[i] for i in own], *prompt, adapter) for prompt, own in prompts.items()]
    order = np.argsort([index for own in prompts.values() for index in own])
    scores: np.ndarray = np.concatenate(rows)[order]
    return scores


def _fitting_prompt(
    engine: Engine, task: Task, shots: Sequence[Example], form: PromptFormat, texts: Sequence[str]
) -> tuple[PromptFormat, tuple[Example, ...]]:
    """Return ``form`` and ``shots`` if they fit before the longest of ``texts``, else the shots that do, unfilled."""
    fitting = shots_that_fit(engine, task, shots, form, texts)
    if len(fitting) == len(shots):
        return form, fitting
    plain = msgspec.structs.replace(form, filler=None)
    return plain, shots_that_fit(engine, task, shots, plain, texts)

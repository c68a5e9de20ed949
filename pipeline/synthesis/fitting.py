"""Which shots a prompt has room for: with many classes, or long texts, not all of them."""

from collections.abc import Iterable, Sequence

from fourshot.engine.core import Engine
from fourshot.engine.errors import InputError
from fourshot.engine.tokens import ANCHOR
from fourshot.pipeline.faults import shorten
from fourshot.pipeline.synthesis.prompt_style import ANSWER_TOKENS, in_turn
from fourshot.pipeline.synthesis.prompts import PromptFormat, reading_prompt
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.token_counter import TokenCounter


class NoRoomError(InputError):
    """A prompt has no room for a shot of every class: what it would be read as is not in context."""


def check_room(engine: Engine, shots: Sequence[Example], shown: Sequence[Example]) -> None:
    """Raise `NoRoomError` where none of a class's ``shots`` is among those that are ``shown``."""
    classes, shown_classes = ({shot.label for shot in examples} for examples in (shots, shown))
    if classes != shown_classes:
        raise NoRoomError(
            f"a prompt of {engine.settings.max_model_len:,} tokens has no room for one shot of each of {len(classes)} "
            f"classes before the longest text; {len(shown_classes)} fit."
        )


def bias_note(name: str, bias: Iterable[tuple[str, float]], tokens: TokenCounter) -> str:
    """For people: which words no ``bias`` reaches (`engine.tokens.word_biases`); "" where all are single tokens."""
    anchor = tokens.pieces(ANCHOR)
    several = [word for word, _ in bias if tokens.pieces(f"{ANCHOR} {word}")[:-1] != anchor]
    if not (several and tokens.is_exact):
        return ""
    return f"{name}: sampling.bias has no effect on {shorten(map(repr, several))}: only single tokens can have one"


def prompt_fits(engine: Engine, prompt: str, max_tokens: int) -> bool:
    """Whether the engine takes a prompt and an answer of ``max_tokens`` to it."""
    room = engine.settings.max_model_len - max_tokens
    if len(prompt.encode()) + 8 < room:  # a token is a byte or more, but for a few in front; counting is slow
        return True
    return engine.count_tokens([prompt])[0] <= room


def longest_of(engine: Engine, task: Task, form: PromptFormat, texts: Sequence[str]) -> str:
    """Of ``texts``, as they are shown."""
    shown = engine.count_tokens([form.shown_input(task, text) for text in texts])
    return max(zip(shown, texts, strict=True))[1]


def shots_that_fit(
    engine: Engine, task: Task, shots: Sequence[Example], form: PromptFormat, texts: Sequence[str]
) -> tuple[Example, ...]:
    """As many of ``shots`` as fit before the longest of ``texts``, in their order: one of every class, then another.

    All of them, wherever they fit. The longest is that as it is shown: long texts are cut.
    """
    if not shots:
        return ()
    longest = longest_of(engine, task, form, texts)
    turns = in_turn(task, shots)

    def first(number: int) -> tuple[Example, ...]:
        first_turns = turns[:number]
        return tuple(shot for shot in shots if shot in first_turns)

    def fits(number: int) -> bool:
        (tokens,) = engine.count_tokens([reading_prompt(task, longest, form, first(number))])
        return tokens + ANSWER_TOKENS <= engine.settings.max_model_len

    if fits(len(turns)):
        return tuple(shots)
    least, most = 0, len(turns)  # fits, does not fit
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return first(least)

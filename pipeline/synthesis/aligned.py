"""Prompts whose common beginning fills complete blocks of the prefix cache: see `engine.alignment`."""

from collections.abc import Sequence

import msgspec

from fourshot.engine.alignment import filler_for
from fourshot.engine.core import EngineSettings
from fourshot.pipeline.synthesis.prompt_style import ANSWER_TOKENS
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.pipeline.task import Example, Task
from fourshot.pipeline.token_counter import token_counter

# Texts may begin with small or capital letters, digits, signs or letters of other scripts.
BEGINNINGS = ("a", "The", "1", "(", '"', "-", "é", "中")
TOKENS_PER_WORD = 2  # of a long text; English has about 1.3, scripts without blanks 1.2 to 1.7


def aligned(
    form: PromptFormat, task: Task, engine: EngineSettings, shots: Sequence[Example] = (), longest: str = ""
) -> PromptFormat:
    """Return ``form`` with the filler that `classification_prompt` puts before prompts with these ``shots``.

    ``engine``: settings of the engine that scores the prompts. ``longest``: the longest text, if it is known. Links, or
    a script that the base model hardly knows, take more tokens than usual, and shots may have left no room for filler.
    No filler is added if the longest text would not fit any more. Nor is it added before a chat template, which begins
    with what the model was trained to see first.
    """
    plain = msgspec.structs.replace(form, filler=None)
    if form.chat is not None:
        return plain
    text_tokens = TOKENS_PER_WORD * form.max_text_words
    if longest:
        text_tokens = max(text_tokens, token_counter(engine.model)(form.shown_input(task, longest)) + ANSWER_TOKENS)
    filler = filler_for(
        engine.model,
        tuple(classification_prompt(task, text, plain, shots) for text in BEGINNINGS),
        text_tokens=text_tokens,
        most_tokens=engine.max_model_len,
    )
    return msgspec.structs.replace(plain, filler=filler)

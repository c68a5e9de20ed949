"""Choice of prompts as plain text or in chat turns: as requested, or as the base model labels the shots better.

Which style is better depends on the model and the task, and the model's name does not show it. So the shots are
labelled in both styles, each in context of the others, and the predictions are compared with their labels.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

import msgspec

from fourshot.engine import calibration as calibrations
from fourshot.engine.chat import ChatTurns, turns_of
from fourshot.engine.core import Engine
from fourshot.engine.errors import InputError
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.synthesis.prompts import PromptFormat, PromptStyle, classification_prompt
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task

STYLE_FILE = Path("prompt_style.json")  # in the output folder, so that the style is chosen once
MOST_READ = 24  # most shots that are labelled in each style, taken in turn from every class
ANSWER_TOKENS = 32  # left free for the longest label


def style_name(task: Task, settings: RunSettings, model_revision: str, shots: Sequence[Example]) -> str:
    """Return `STYLE_FILE` with a hash of everything that the choice of a style depends on."""
    found_from = (
        (settings.prompt_style, settings.max_text_words, model_revision),
        (task.instruction, task.labels, shots),
    )
    return f"{STYLE_FILE.stem}-{value_hash(found_from)}{STYLE_FILE.suffix}"


class StyleScore(msgspec.Struct, frozen=True, kw_only=True):
    """How well the base model labels each shot in context of the others."""

    accuracy: float  # after batch calibration
    log_probability: float  # of the true label, after batch calibration; mean, nats
    shots: int  # number of shots that were labelled


class ChosenStyle(msgspec.Struct, frozen=True, kw_only=True):
    """The style of a base model's prompts, with the reason."""

    chat: ChatTurns | None = None  # None: plain text
    reason: str
    plain_score: StyleScore | None = None  # None unless both styles were tried
    chat_score: StyleScore | None = None

    def __str__(self) -> str:
        return f"prompt style {'chat' if self.chat else 'plain'}: {self.reason}"


class StyleTrial(msgspec.Struct, frozen=True, kw_only=True):
    """Shots that a base model is to label in both styles."""

    task: Task
    shots: tuple[Example, ...]
    chat: ChatTurns
    max_text_words: int


def untried_style(style: PromptStyle, model_path: str, model_name: str) -> ChosenStyle | None:
    """Return the style of a base model's prompts if nothing has to be tried; None if both styles are possible.

    Raises InputError if "chat" is requested and the base model has no usable template.
    """
    if style == "plain":
        return ChosenStyle(reason="asked for")
    try:
        turns = turns_of(model_path, model_name)
    except InputError as error:
        if style == "chat":
            raise
        return ChosenStyle(reason=str(error).partition(". ")[0])
    return ChosenStyle(chat=turns, reason=f"asked for; template {turns.template_hash}") if style == "chat" else None


def tried_style(engine: Engine, trial: StyleTrial) -> ChosenStyle:
    """Return the style in which ``engine`` labels the shots better; plain text if they do not fit into its context."""
    forms = [PromptFormat(max_text_words=trial.max_text_words, chat=chat) for chat in (None, trial.chat)]
    try:
        shots = _that_fit(engine, trial, forms)
        plain, chat = (read_shots(engine, trial.task, shots, form) for form in forms)
    except InputError as error:
        return ChosenStyle(reason=f"chat could not be tried on the shots: {error}")
    # Plain text wins ties, and if accuracy and log-probability disagree.
    is_better = chat.accuracy >= plain.accuracy and chat.log_probability > plain.log_probability
    return ChosenStyle(
        chat=trial.chat if is_better else None,
        reason=(
            f"of {plain.shots} shots, each read in context of the others, {100 * plain.accuracy:.0f} % are read "
            f"rightly as plain text and {100 * chat.accuracy:.0f} % in chat (log-probability "
            f"{plain.log_probability:.2f} and {chat.log_probability:.2f})"
        ),
        plain_score=plain,
        chat_score=chat,
    )


def read_shots(engine: Engine, task: Task, shots: Sequence[Example], form: PromptFormat) -> StyleScore:
    """Return how well ``engine`` labels every shot in context of the others, in one prompt format."""
    import numpy as np

    logprobs = engine.score(_leave_one_out(task, shots, form), task.label_words)
    counts = Counter(shot.label for shot in shots)
    # Classes without a shot count as rare rather than impossible.
    fitted = calibrations.batch(logprobs, [counts[name] or 0.5 for name in task.label_names])
    calibrated = calibrations.apply(fitted, logprobs)
    gold = np.array([task.label_names.index(shot.label) for shot in shots])
    return StyleScore(
        accuracy=float((calibrated.argmax(axis=1) == gold).mean()),
        log_probability=float(calibrated[np.arange(len(gold)), gold].mean()),
        shots=len(shots),
    )


def _that_fit(engine: Engine, trial: StyleTrial, forms: Sequence[PromptFormat]) -> list[Example]:
    """Return up to `MOST_READ` shots, halved until the prompts of every form fit: all styles label the same shots."""
    shots = in_turn(trial.task, trial.shots)[:MOST_READ]
    most_tokens = engine.settings.max_model_len - ANSWER_TOKENS
    while len(shots) > 2:
        prompts = [prompt for form in forms for prompt in _leave_one_out(trial.task, shots, form)]
        if max(engine.count_tokens(prompts)) <= most_tokens:
            break
        shots = shots[: len(shots) // 2]
    return shots


def in_turn(task: Task, shots: Sequence[Example]) -> list[Example]:
    """Return one shot of every class, then a second one of each, and so on: the first shots represent all classes."""
    of_class = [[shot for shot in shots if shot.label == name] for name in task.label_names]
    return [shot for shot in chain.from_iterable(zip_longest(*of_class)) if shot is not None]


def _leave_one_out(task: Task, shots: Sequence[Example], form: PromptFormat) -> list[str]:
    return [
        classification_prompt(task, shot.text, form, [*shots[:index], *shots[index + 1 :]])
        for index, shot in enumerate(shots)
    ]

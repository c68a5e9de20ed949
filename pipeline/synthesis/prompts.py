"""The prompts: one function renders what is trained, what is measured and what is served.

Source: Patwa et al. 2024, figure 2 (generation) and figure 3 (classification). Texts stand on one line each, so that a
line end closes a text.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from fourshot.pipeline.tasks.types import Example, Label, Task

PROMPT_VERSION = "1"  # goes up with every change of what is rendered; lies on every card

Wording = Literal["task", "bare", "answer"]  # of a prompt without shots; an adapter is asked in the one it learnt
MAX_TEXT_WORDS = 300  # longer texts are cut at the end

LISTS: dict[str, dict[str, tuple[str, ...]]] = {  # dimension -> of what -> values: a small model goes by examples
    "topic": {
        "restaurant reviews": ("service", "prices", "desserts", "music", "waiting time"),
        "questions about computers": ("printers", "passwords", "viruses", "old files", "batteries"),
        "reports from a town": ("schools", "traffic", "a flood", "the new mayor", "street music"),
    },
    "style": {
        "restaurant reviews": ("enthusiastic", "dry", "ironic", "detailed", "blunt"),
        "questions about computers": ("curious", "short", "formal", "clumsy", "precise"),
        "reports from a town": ("factual", "dramatic", "terse", "technical", "personal"),
    },
}

END_OF_TEXT = "\n"  # a generated text ends here


class PromptFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How a text is put to a model: the same in training, measuring and serving."""

    wording: Wording = "task"
    max_text_words: int = MAX_TEXT_WORDS


def classification_prompt(
    task: Task, text: str, shots: Sequence[Example] = (), *, max_text_words: int = MAX_TEXT_WORDS
) -> str:
    """The instruction, the shots of all classes in the order given, then ``text`` and an open label.

    Without shots it is the zero-shot prompt. Texts above ``max_text_words`` words are cut at the end.
    """
    return context(task, shots, max_text_words) + question(text, max_text_words)


def context(task: Task, shots: Sequence[Example], max_text_words: int) -> str:
    """What `classification_prompt` says before the text: the same for all texts, so it is cached, by the engine too."""
    words = {label.name: label.read_as for label in task.labels}
    answered = "".join(f"{question(shot.text, max_text_words)} {words[shot.label]}\n\n" for shot in shots)
    return f"{task.instruction}\n\n{answered}"


def question(text: str, max_text_words: int) -> str:
    """What `classification_prompt` says after the shots: the text and an open label."""
    return f"Text: {one_line(text, max_text_words)}\nLabel:"


def reading_prompt(task: Task, text: str, form: PromptFormat, shots: Sequence[Example] = ()) -> str:
    """What a text is classified with: the prompt of an adapter in the form of its training, or one with shots.

    Wordings: task is the instruction, then text and label (`classification_prompt`); bare is text and label alone;
    answer is the instruction, the text, "The answer is". With ``shots`` it is the instruction in any case: they are for
    a model that was not trained.
    """
    if form.wording == "bare" and not shots:
        return question(text, form.max_text_words)
    if form.wording == "answer" and not shots:
        return f"{task.instruction}\n\n{one_line(text, form.max_text_words)}\n\nThe answer is"
    return classification_prompt(task, text, shots, max_text_words=form.max_text_words)


def generation_prompt(
    task: Task,
    label: Label,
    shots: Sequence[Example],
    *,
    max_text_words: int,
    of_shots: Sequence[Mapping[str, str]] = (),
    wanted: Mapping[str, str] | None = None,
) -> str:
    """The shots of one class as text and label pairs, then an open text.

    ``of_shots`` and ``wanted``: attributes of each shot and of the text that is to be written, value by dimension;
    they stand on lines of their own before the text. The part that names the wanted ones comes last, so prompts share
    all that is before it.
    """
    description = f" {label.description}" if label.description else f" labelled {label.read_as}"
    pairs = "".join(
        f"{_attribute_lines(attributes)}{question(shot.text, max_text_words)} {label.read_as}\n\n"
        for shot, attributes in zip(shots, of_shots or [{}] * len(shots), strict=True)
    )
    return (
        f"Few examples of {task.nouns}{description} are given. Generate more {_plural(task, label)}.\n\n"
        f"{pairs}{_attribute_lines(wanted or {})}Text:"
    )


def attribute_list_prompt(task: Task, label: Label, dimension: str) -> str:
    """Lists of what ``dimension``, a key of `LISTS`, other texts have; then an open one for the texts of a class."""
    title = f"{dimension.capitalize()}s"
    lists = "".join(f"{title} of {texts}: {', '.join(values)}\n" for texts, values in LISTS[dimension].items())
    return f"{lists}{title} of {_plural(task, label)}:"


def attribute_prompt(dimension: str, text: str, max_text_words: int) -> str:
    """A text and an open attribute."""
    return f"Text: {one_line(text, max_text_words)}\n{dimension.capitalize()}:"


def _attribute_lines(attributes: Mapping[str, str]) -> str:
    return "".join(f"{dimension.capitalize()}: {value}\n" for dimension, value in attributes.items())


def _plural(task: Task, label: Label) -> str:
    return label.plural or f"{label.read_as} {task.nouns}"


def one_line(text: str, max_words: int) -> str:
    """``text`` with every run of white space as one blank, cut after ``max_words`` words."""
    return " ".join(text.split()[:max_words])


def prompt_hash(prompt: str) -> str:
    """Short name of a prompt in a candidate's lineage."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]

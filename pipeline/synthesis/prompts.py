"""Prompts for classification and generation; `classification_prompt` is that of training, evaluation and serving.

Source: Patwa et al. 2024, figure 2 (generation) and figure 3 (classification). Each text is on one line, so a line end
closes it. The style ``chat`` puts the same content into the turns of the base model's chat template: the user's
message, the shots as turns of their own, and an answer that begins with "Label:" or "Text:" and is left open.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from fourshot.engine.alignment import PromptFiller
from fourshot.engine.chat import ChatTurns
from fourshot.engine.core import Verbalizer
from fourshot.pipeline.rows.fields import cut_fields, heading, values_of
from fourshot.pipeline.rows.text_words import MAX_TEXT_WORDS, LongTexts, shown_text
from fourshot.pipeline.task import Example, Label, Task

PROMPT_VERSION = "1"  # increased with every change of what is rendered; recorded in every card
CHAT_VERSION = "1-chat"  # the same for prompts in chat turns, which earlier versions of fourshot must reject
ALIGNED = "-aligned"  # suffix of the version of prompts with filler in front, for the same reason

PromptStyle = Literal["plain", "chat", "auto"]  # auto: chosen by measurement, see `pipeline.synthesis.prompt_style`
Wording = Literal["task", "bare", "answer"]  # of a prompt without shots; an adapter is queried in that of its training

LISTS: dict[str, dict[str, tuple[str, ...]]] = {  # dimension -> kind of texts -> values; a small model needs examples
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

END_OF_TEXT = "\n"  # ends a generated text
END_OF_FIELDS = ("\n\n", "\nLabel:")  # either ends a generated input of several fields


class PromptFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How prompts show a text, and which tokens stand for its label: the same in training, evaluation and serving."""

    wording: Wording = "task"
    verbalizer: Verbalizer = "word"
    max_text_words: int = MAX_TEXT_WORDS
    long_texts: LongTexts = "cut"  # which part of longer texts is left out; of "windows", a prompt shows the first
    chat: ChatTurns | None = None  # of the base model's chat template; None: plain text
    filler: PromptFiller | None = None  # in front of the prompt, see `pipeline.synthesis.aligned`

    @property
    def version(self) -> str:
        """Version of the prompts rendered in this format."""
        suffix = "" if self.long_texts == "cut" else f"-{self.long_texts}"  # earlier versions must reject these, too
        return (CHAT_VERSION if self.chat else PROMPT_VERSION) + (ALIGNED if self.filler else "") + suffix

    @property
    def turns(self) -> ChatTurns:
        """Strings around texts and labels: ``chat``, or those of plain text."""
        return self.chat or PLAIN

    def shown(self, text: str) -> str:
        """Return ``text`` as a prompt shows it: on one line, cut, and with marks broken that would end its turn."""
        return self.turns.inert(shown_text(text, self.max_text_words, self.long_texts))

    def shown_input(self, task: Task, text: str, name: str = "Text: ") -> str:
        """Return `shown` after ``name``; for a task with fields, a line for each field, after its own heading."""
        if not task.input_fields:
            return name + self.shown(text)
        values = cut_fields(values_of(task, text), self.max_text_words, self.long_texts)
        return "\n".join(f"{heading(field)}: {self.turns.inert(value)}" for field, value in values.items())


# Plain text is a conversation whose turns are separated by line ends.
PLAIN = ChatTurns(begin="", answer="\n", next="\n\n", open="\n", template_hash="")


def version_of(style: PromptStyle) -> str:
    """Return the version of the prompts that may be rendered if ``style`` is requested; "auto" may choose chat."""
    return PROMPT_VERSION if style == "plain" else CHAT_VERSION


def context(task: Task, shots: Sequence[Example], form: PromptFormat) -> str:
    """Return the part of `classification_prompt` before the text: the same for all texts, so the engine caches it."""
    turns, words = form.turns, {label.name: label.read_as for label in task.labels}
    answered = "".join(
        f"{form.shown_input(task, shot.text)}{turns.answer}Label: {words[shot.label]}{turns.next}" for shot in shots
    )
    return f"{turns.begin}{task.instruction}\n\n{answered}"


def question(task: Task, text: str, form: PromptFormat) -> str:
    """Return the part of `classification_prompt` after the shots: the text and an open label."""
    return f"{form.shown_input(task, text)}{form.turns.open}Label:"


def opening(task: Task) -> str:
    """Return the beginning of an input that the model is to write: the first field's heading, or "Text:"."""
    return f"{heading(task.input_fields[0])}:" if task.input_fields else "Text:"


def classification_prompt(task: Task, text: str, form: PromptFormat, shots: Sequence[Example] = ()) -> str:
    """Return the prompt that classifies ``text``: for an adapter, in the format of its training, or one with shots.

    Wordings: "task" is the instruction, then text and label. "bare" is text and label alone. "answer" is the
    instruction, the text and "The answer is". With ``shots``, shown in the given order, the wording is always "task":
    they are for a model that was not trained.
    """
    filler = form.filler.text if form.filler else ""
    if form.wording == "bare" and not shots:
        return filler + form.turns.begin + question(task, text, form)
    if form.wording == "answer" and not shots:
        shown = form.shown_input(task, text, name="")
        return filler + _opened(form.chat, f"{task.instruction}\n\n{shown}\n\n", "The answer is")
    return filler + context(task, shots, form) + question(task, text, form)


def classification_messages(
    task: Task, text: str, form: PromptFormat, shots: Sequence[Example]
) -> list[dict[str, str]]:
    """Return `classification_prompt` as messages for a chat API: instruction and labels, shots as turns, then ``text``.

    The instruction is in the first user turn, because some chat templates have no system turn.
    """
    words = {label.name: label.read_as for label in task.labels}
    instruction = (
        f"{task.instruction} Answer with one of these labels and nothing else: {', '.join(words.values())}.\n\n"
    )
    turns = []
    for shot in shots:
        turns += [("user", form.shown_input(task, shot.text)), ("assistant", words[shot.label])]
    turns.append(("user", form.shown_input(task, text)))
    turns[0] = ("user", instruction + turns[0][1])
    return [{"role": role, "content": content} for role, content in turns]


def generation_prompt(
    task: Task,
    label: Label,
    shots: Sequence[Example],
    *,
    max_text_words: int,
    of_shots: Sequence[Mapping[str, str]] = (),
    wanted_attributes: Mapping[str, str] | None = None,
    chat: ChatTurns | None = None,
) -> str:
    """Return the prompt for a text of one class: its shots as text and label pairs, then an open text.

    In chat, this is one message and its open answer. ``of_shots`` and ``wanted_attributes``: attributes of each shot
    and of the text to be written, value by dimension, on lines of their own before the text. The wanted ones come last,
    so prompts share everything before them.
    """
    form = PromptFormat(max_text_words=max_text_words, chat=chat)
    description = f" {label.description}" if label.description else f" labelled {label.read_as}"
    pairs = "".join(
        f"{_attribute_lines(attributes)}{form.shown_input(task, shot.text)}\nLabel: {label.read_as}\n\n"
        for shot, attributes in zip(shots, of_shots or [{}] * len(shots), strict=True)
    )
    message = (
        f"Few examples of {task.nouns}{description} are given. Generate more {_plural(task, label)}.\n\n"
        f"{pairs}{_attribute_lines(wanted_attributes or {})}"
    )
    return _opened(chat, message, opening(task))


def mixed_prompt(task: Task, shots: Sequence[Example], *, max_text_words: int, chat: ChatTurns | None = None) -> str:
    """Return a prompt with shots of any class, without their labels, then an open text, which may be of any class."""
    form = PromptFormat(max_text_words=max_text_words, chat=chat)
    shown_shots = "".join(f"{form.shown_input(task, shot.text)}\n\n" for shot in shots)
    message = f"Few examples of {task.nouns} are given. Generate more {task.nouns}.\n\n{shown_shots}"
    return _opened(chat, message, opening(task))


def attribute_list_prompt(task: Task, label: Label, dimension: str, chat: ChatTurns | None = None) -> str:
    """Return a prompt with the lists of ``dimension``, a key of `LISTS`, then an open list for the texts of a class."""
    title = f"{dimension.capitalize()}s"
    lists = "".join(f"{title} of {texts}: {', '.join(values)}\n" for texts, values in LISTS[dimension].items())
    return _opened(chat, lists, f"{title} of {_plural(task, label)}:")


def attribute_prompt(task: Task, dimension: str, text: str, form: PromptFormat) -> str:
    """Return a prompt with a text and an open attribute."""
    return _opened(form.chat, f"{form.shown_input(task, text)}\n", f"{dimension.capitalize()}:")


def _opened(chat: ChatTurns | None, message: str, begun: str) -> str:
    """Return ``message``, then an answer that begins with ``begun`` and is left open; in chat, each in a turn."""
    return f"{chat.begin}{message.rstrip()}{chat.open}{begun}" if chat else message + begun


def _attribute_lines(attributes: Mapping[str, str]) -> str:
    return "".join(f"{dimension.capitalize()}: {value}\n" for dimension, value in attributes.items())


def _plural(task: Task, label: Label) -> str:
    return label.plural or f"{label.read_as} {task.nouns}"


def prompt_hash(prompt: str) -> str:
    """Return the short name of a prompt in a candidate's lineage: 12 hexadecimal digits."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]

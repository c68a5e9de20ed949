"""The prompts: one function renders what is trained, what is measured and what is served.

Source: Patwa et al. 2024, figure 2 (generation) and figure 3 (classification). Texts stand on one line each, so that a
line end closes a text.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

from pipeline.nouns import Example, Label, Task

PROMPT_VERSION = "1"  # goes up with every change of what is rendered; lies on every card

Wording = Literal["task", "bare", "answer"]  # of a prompt without shots; an adapter is asked in the one it learnt

END_OF_TEXT = "\n"  # a generated text ends here


def classification_prompt(task: Task, text: str, shots: Sequence[Example] = (), *, max_text_words: int = 300) -> str:
    """The instruction, the shots of all classes in the order given, then ``text`` and an open label.

    Without shots it is the zero-shot prompt. Texts above ``max_text_words`` words are cut at the end.
    """
    return context(task, shots, max_text_words=max_text_words) + question(text, max_text_words=max_text_words)


def context(task: Task, shots: Sequence[Example], *, max_text_words: int = 300) -> str:
    """What `classification_prompt` says before the text: the same for all texts, so it is cached, by the engine too."""
    words = {label.name: label.read_as for label in task.labels}
    answered = "".join(f"Text: {one_line(shot.text, max_text_words)}\nLabel: {words[shot.label]}\n\n" for shot in shots)
    return f"{task.instruction}\n\n{answered}"


def question(text: str, *, max_text_words: int = 300) -> str:
    """What `classification_prompt` says after the shots: the text and an open label."""
    return f"Text: {one_line(text, max_text_words)}\nLabel:"


def reading_prompt(
    task: Task, text: str, wording: Wording, shots: Sequence[Example] = (), *, max_text_words: int = 300
) -> str:
    """What a text is classified with: the prompt of an adapter in the ``wording`` of its training, or one with shots.

    task: the instruction, then text and label (`classification_prompt`). bare: text and label alone. answer: the
    instruction, the text, "The answer is". With ``shots`` it is the instruction in any case: they are for a model that
    was not trained.
    """
    if shots:
        return classification_prompt(task, text, shots, max_text_words=max_text_words)
    if wording == "bare":
        return question(text, max_text_words=max_text_words)
    if wording == "answer":
        return f"{task.instruction}\n\n{one_line(text, max_text_words)}\n\nThe answer is"
    return classification_prompt(task, text, max_text_words=max_text_words)


def generation_prompt(task: Task, label: Label, shots: Sequence[Example], *, max_text_words: int = 300) -> str:
    """The shots of one class as text and label pairs, then an open text."""
    nouns = task.noun_plural or f"{task.noun}s"
    description = f" {label.description}" if label.description else f" labelled {label.read_as}"
    wanted = label.plural or f"{label.read_as} {nouns}"
    pairs = "".join(f"Text: {one_line(shot.text, max_text_words)}\nLabel: {label.read_as}\n\n" for shot in shots)
    return f"Few examples of {nouns}{description} are given. Generate more {wanted}.\n\n{pairs}Text:"


def one_line(text: str, max_words: int) -> str:
    """``text`` with every run of white space as one blank, cut after ``max_words`` words."""
    return " ".join(text.split()[:max_words])


def prompt_hash(prompt: str) -> str:
    """Short name of a prompt in a candidate's lineage."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]

"""Attributes: properties in which the texts of a class can differ. Each draw requests a combination of them.

The model lists topics and styles itself, and assigns to each shot those that fit best. Lengths are counted. So a prompt
shows shots with their attributes and requests a text with others: a small model follows examples, not instructions.
Source: Yu et al. 2023, "Large Language Model as Attributed Training Data Generator", section 3 (attributes that a model
lists, drawn at random for each prompt).
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import msgspec

from fourshot.engine.chat import ChatTurns
from fourshot.engine.core import Engine, Sampling
from fourshot.pipeline.rows.text_words import count_words, has_unspaced, without_marks
from fourshot.pipeline.synthesis.prompts import (
    END_OF_TEXT,
    LISTS,
    PromptFormat,
    attribute_list_prompt,
    attribute_prompt,
)
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Label, Task

LENGTH = "length"  # counted; the other dimensions are listed by the model
NUM_LISTS = 32  # that the model writes per class and dimension
LIST_TOKENS = 40
LIST_TEMPERATURE = 0.7  # typical attributes of a class are wanted, not rare ones
FEWEST_LISTS, MOST_VALUES = 2, 12  # a value must be in so many lists; so many of the most frequent ones are used
MOST_WORDS, FEWEST_LETTERS = 3, 3
SHORTER, LONGER = 0.75, 1.33  # times the median length of the class's shots
CONTENT_FREE = "N/A"
_COMMA = re.compile("[,\u3001\uff0c\u060c]")  # also the commas of Chinese, Japanese and Arabic
_VALUE = re.compile(r"[^\W\d_]+(?:[ '\u2019-][^\W\d_]+)*")


class Attributes(msgspec.Struct, frozen=True, kw_only=True):
    """The attributes of one class and of its shots."""

    values: dict[str, tuple[str, ...]]  # dimension -> at least two values
    of_shots: dict[int, dict[str, str]]  # index of a shot -> its value in each of these dimensions

    def draw(self, numbers: random.Random) -> dict[str, str]:
        """Return a value for each dimension; all values are equally likely."""
        return {dimension: numbers.choice(values) for dimension, values in self.values.items()}


def list_attributes(
    engine: Engine, task: Task, shots: Sequence[Example], settings: RunSettings, chat: ChatTurns | None = None
) -> dict[str, Attributes]:
    """Return the attributes of every class, by name. Raises InputError if a prompt does not fit into the context."""
    questions = [(label, dimension) for label in task.labels for dimension in LISTS]
    prompts = [attribute_list_prompt(task, label, dimension, chat) for label, dimension in questions]
    seed = random.Random(f"{settings.seed}/{task.name}/attributes").getrandbits(31)
    drawn_from = msgspec.structs.replace(settings.sampling, temperature=LIST_TEMPERATURE)
    sampling = Sampling(
        **msgspec.structs.asdict(drawn_from), n=NUM_LISTS, max_tokens=LIST_TOKENS, stop=(END_OF_TEXT,), seed=seed
    )
    completions = sorted(engine.sample(prompts, sampling), key=lambda item: (item.prompt_index, item.sample_index))
    lists: dict[tuple[str, str], list[str]] = {(label.name, dimension): [] for label, dimension in questions}
    for completion in completions:
        label, dimension = questions[completion.prompt_index]
        ends = [comma.start() for comma in _COMMA.finditer(completion.text)]
        is_whole = completion.finish_reason == "stop"
        lists[label.name, dimension].append(completion.text if is_whole else completion.text[: max(ends, default=0)])
    form = PromptFormat(max_text_words=settings.max_text_words, chat=chat)
    return {label.name: _of_class(engine, task, label, shots, form, lists) for label in task.labels}


def listed_values(lists: Iterable[str], forbidden: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the most frequent items of comma-separated lists, most frequent first, without words of ``forbidden``.

    They are at most `MOST_VALUES`, each of them in at least `FEWEST_LISTS` lists.
    """
    never = {word for phrase in forbidden for word in phrase.lower().split()}
    counts: Counter[str] = Counter()
    for text in lists:
        items = {item.strip(" .:\"'").lower() for item in _COMMA.split(text)}
        counts.update(item for item in items if _is_value(item) and not never & set(item.split()))
    often = [item for item, count in counts.items() if count >= FEWEST_LISTS]
    return tuple(sorted(often, key=lambda item: (-counts[item], item))[:MOST_VALUES])


def _is_value(item: str) -> bool:
    fewest = 2 if has_unspaced(item) else FEWEST_LETTERS
    return bool(_VALUE.fullmatch(without_marks(item))) and len(item) >= fewest and count_words(item) <= MOST_WORDS


def _of_class(
    engine: Engine,
    task: Task,
    label: Label,
    shots: Sequence[Example],
    form: PromptFormat,
    lists: Mapping[tuple[str, str], Sequence[str]],
) -> Attributes:
    class_shots = {index: shot for index, shot in enumerate(shots) if shot.label == label.name}
    texts = [shot.text for shot in class_shots.values()]
    values: dict[str, tuple[str, ...]] = {}
    fitting: dict[str, list[str]] = {}  # dimension -> the value of each text
    for dimension, examples in LISTS.items():
        copied = {value for example_values in examples.values() for value in example_values}
        listed = listed_values(lists[label.name, dimension], (*task.label_names, *task.label_words))
        if len(own_values := tuple(value for value in listed if value not in copied)) >= 2:
            values[dimension] = own_values
            fitting[dimension] = _fitting(engine, task, dimension, own_values, texts, form)
    lengths = lengths_of(texts)
    if len(set(lengths)) > 1:
        values[LENGTH], fitting[LENGTH] = tuple(sorted(set(lengths))), lengths
    of_shots = {
        index: {dimension: fitting[dimension][number] for dimension in fitting}
        for number, index in enumerate(class_shots)
    }
    return Attributes(values=values, of_shots=of_shots)


def lengths_of(texts: Sequence[str]) -> list[str]:
    """Return "short", "medium" or "long" for each text, by its number of words relative to the median."""
    counts = [count_words(text) for text in texts]
    middle = median(counts)
    return ["short" if n < SHORTER * middle else "long" if n > LONGER * middle else "medium" for n in counts]


def _fitting(
    engine: Engine, task: Task, dimension: str, values: Sequence[str], texts: Sequence[str], form: PromptFormat
) -> list[str]:
    """Return for each text the value whose log-probability is highest, relative to that after a content-free text."""
    prompts = [attribute_prompt(task, dimension, text, form) for text in (*texts, CONTENT_FREE)]
    scores = engine.score(prompts, values)
    return [values[int(row.argmax())] for row in scores[:-1] - scores[-1]]

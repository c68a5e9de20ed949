"""The text filter, which needs no model: it rejects malformed, copied, repeated, too short and too long texts.

Texts that pass are annotated. The checks are cheap (about 0.3 ms per text) and run in the order of `check`, so that a
verdict names the simplest reason. Importing this module loads neither torch nor vllm.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import msgspec

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.examples import normalised_text
from fourshot.pipeline.rows.fields import bare_text, heading, join_fields, split_fields, written_fields
from fourshot.pipeline.rows.text_words import (
    CHARS_PER_WORD,
    MAX_TEXT_WORDS,
    has_unspaced,
    shown_text,
    without_marks,
    words_left_out,
)
from fourshot.pipeline.synthesis.neardup import NearDuplicates, similar_to_any
from fourshot.pipeline.synthesis.types import Candidate, Reason
from fourshot.pipeline.synthesis.words import comparable
from fourshot.pipeline.task import Example, Task

# Of all scripts with such marks: Chinese and Japanese, Arabic, Hindi, Ethiopic, Armenian, Khmer, Burmese, Tibetan.
_SENTENCE_END = re.compile(r"[.!?…。！？｡؟۔।॥።։។။།‼⁇⁈⁉][\"'”’»«)\]）」』】〉》\s]*$")  # noqa: RUF001 - not Latin ones
_BULLET = re.compile(r"^(?:[-*•–]\s+|\(?\d{1,3}[.)]\s+|・\s*|[（(]?\d{1,3}[、．）]\s*)+")  # noqa: RUF001 - so do others
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "`": "`", "**": "**"}  # noqa: RUF001
_QUOTES |= {"「": "」", "『": "』", "《": "》", "»": "«", "‚": "‘"}  # noqa: RUF001 - Chinese, Japanese, German


def _name_pattern(*names: str) -> "re.Pattern[str]":
    """Return a pattern for any of the ``names`` in front of parts of a prompt, with its colon."""
    any_name = "|".join(map(re.escape, names))
    return re.compile(rf"(?:^|[\s\"'(\[])(?:{any_name})\s*[:：]", re.IGNORECASE)  # noqa: RUF001 - a full-width colon


_FIELD = _name_pattern("text", "label")


class FilterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the text filter. Lengths are in characters, with bounds relative to the shots of any task."""

    min_length_factor: float = 0.5  # times the shortest shot
    max_length_factor: float = 2.0  # times the longest shot
    shortest_chars: int = 8  # nothing shorter passes, unless a shot is shorter
    longest_chars: int = 80  # nothing up to this length is too long, even if all shots are very short
    near_duplicate: float = 0.9  # similarity to a text kept before, 0 to 1
    near_shot: float = 0.9  # similarity to a shot, 0 to 1
    near_test: float = 0.85  # similarity to a test text; stricter, because such a text would inflate the score
    min_letters: float = 0.5  # share of letters among the characters that are not blank
    min_distinct_words: float = 0.4  # distinct words / words, in texts of at least 12 words

    def __post_init__(self) -> None:
        for name in ("near_duplicate", "near_shot", "near_test", "min_letters", "min_distinct_words"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"filter setting {name} is a share from 0 to 1, got {value}.")
        if not 0 <= self.min_length_factor <= 1 <= self.max_length_factor:
            raise InputError(
                f"min_length_factor must be from 0 to 1 and max_length_factor at least 1, got {self.min_length_factor} "
                f"and {self.max_length_factor}: otherwise the shots themselves would be too short or too long."
            )


def length_bounds(
    shots: Sequence[Example], settings: FilterSettings, max_text_words: int = MAX_TEXT_WORDS
) -> tuple[int, int]:
    """Return the fewest and the most characters of a text; every shot is within. Raises `InputError` for no shots.

    For the fewest, ``max_text_words`` of a shot count: a model writes no longer texts than those that its prompt shows.
    """
    if not shots:
        raise InputError("the length bounds come from the shots, and there are none. Give at least one shot per class.")
    texts = [shot.text for shot in shots]
    shown = [shown_text(text, max_text_words) if words_left_out(text, max_text_words) else text for text in texts]
    least = min(len(text) for text in shown)
    # A character of a script without blanks carries about as much as two others.
    shortest = settings.shortest_chars // (CHARS_PER_WORD if any(has_unspaced(shot.text) for shot in shots) else 1)
    fewest = min(least, max(shortest, round(settings.min_length_factor * least)))
    most = max(settings.longest_chars, round(settings.max_length_factor * max(len(text) for text in texts)))
    return fewest, most


def longest_text(task: Task, shots: Sequence[Example], settings: FilterSettings) -> str:
    """Return a text as long as a candidate may be, from the words of the longest shot, to measure room in prompts."""
    shots = bare_shots(task, shots)
    most = length_bounds(shots, settings)[1] // (len(task.input_fields) or 1)  # prompts show it in every field
    longest = max((shot.text for shot in shots), key=len)
    return (f"{longest} " * (most // len(longest) + 1))[:most] if longest else ""


def bare_shots(task: Task, shots: Sequence[Example]) -> Sequence[Example]:
    """Return the shots without the names of their fields."""
    if not task.input_fields:
        return shots
    return [Example(text=bare_text(task, shot.text), label=shot.label) for shot in shots]


class TextFilter:
    """Checks candidates one after another and remembers those that passed, over all rounds and classes of a run.

    After a restart, `remember` the texts that had passed, in order, to restore the filter's state.
    """

    def __init__(
        self,
        shots: Sequence[Example],
        settings: FilterSettings | None = None,
        test_texts: Iterable[str] | None = None,
        *,
        task: Task,
        max_text_words: int = MAX_TEXT_WORDS,
    ) -> None:
        """``test_texts``: of the test split, if it is known, without labels. ``max_text_words``: that prompts show.

        Raises `InputError` for no shots.
        """
        self.settings = settings or FilterSettings()
        self._task, shots = task, bare_shots(task, shots)
        self.bounds = length_bounds(shots, self.settings, max_text_words)
        self._shots = [comparable(shot.text) for shot in shots]
        self._long_shots = [f" {shot} " for shot in self._shots if _is_long(shot)]
        self._all_shots = "".join(f" {shot} \n" for shot in self._shots)
        self._instruction = normalised_text(task.instruction)
        nouns = normalised_text(task.nouns)
        # Parts of the generation prompt, around the shots, that a real text does not contain by chance.
        self._prompt_parts = [f"few examples of {nouns}", f"generate more {nouns}"]
        plurals = [normalised_text(label.plural) for label in task.labels if label.plural]
        self._prompt_parts += [f"generate more {plural}" for plural in plurals]
        names = (*task.label_names, *task.label_words)
        self._label_names = set(map(comparable, names))
        self._label_first = re.compile(rf"(?:{'|'.join(map(re.escape, names))})\s*[:\uff1a]", re.IGNORECASE)
        self._passed: set[str] = set()
        self._near_passed = NearDuplicates(self.settings.near_duplicate)
        self._test: set[str] = set()
        self._near_test = NearDuplicates(self.settings.near_test)
        self._field = _name_pattern("text", "label", *map(heading, task.input_fields)) if task.input_fields else _FIELD
        for text in test_texts or ():
            bare = bare_text(task, text)
            self._test.add(comparable(bare))
            self._near_test.add(bare)

    def check(self, candidate: Candidate) -> Reason | None:
        """Return why the candidate is rejected; None if it passes, and later ones are then compared with it, too."""
        reason = self.alone(candidate) or self.beside_others(candidate.text)
        if reason is None:
            self.remember(candidate.text)
        return reason

    def alone(self, candidate: Candidate) -> Reason | None:
        """Return why the candidate is rejected whatever other candidates exist: form or a copied shot; else None."""
        fields = self._task.input_fields
        if fields and split_fields(fields, candidate.text) is None:
            return "missing_field"
        text = bare_text(self._task, candidate.text)
        return self._form(text, candidate.finish_reason) or self._copies_shot(text)

    def beside_others(self, text: str) -> Reason | None:
        """Return why the text is rejected if it repeats a test text or a remembered text; else None."""
        text = bare_text(self._task, text)
        plain = comparable(text)
        if plain in self._test or (self._test and self._near_test.find(text)):
            return "in_test_set"
        if plain in self._passed:
            return "exact_duplicate"
        return "near_duplicate" if self._near_passed.find(text) else None

    def remember(self, text: str) -> None:
        """Record a text as passed, without checking it."""
        text = bare_text(self._task, text)
        self._passed.add(comparable(text))
        self._near_passed.add(text)

    def _form(self, text: str, finish_reason: str) -> Reason | None:
        if is_malformed(text, self.settings):
            return "malformed"
        if comparable(text) in self._label_names or self._field.search(text) or self._label_first.match(text):
            return "leaks_label"
        if self._repeats_prompt(normalised_text(text)):
            return "repeats_prompt"
        if finish_reason == "length" and not _SENTENCE_END.search(text):
            return "unfinished"
        if len(text) < self.bounds[0]:
            return "too_short"
        if len(text) > self.bounds[1]:
            return "too_long"
        return None

    def _repeats_prompt(self, text: str) -> bool:
        from rapidfuzz import fuzz

        if any(part in text for part in self._prompt_parts):
            return True
        # A text shorter than the instruction is searched for in it: a model often repeats only its beginning.
        return fuzz.partial_ratio(self._instruction, text, score_cutoff=90) > 0

    def _copies_shot(self, text: str) -> Reason | None:
        """Return "copies_shot" if the text is similar to a shot, or one contains the other word for word; else None."""
        plain = comparable(text)
        spaced = f" {plain} "
        if any(shot in spaced for shot in self._long_shots) or (_is_long(plain) and spaced in self._all_shots):
            return "copies_shot"
        return "copies_shot" if similar_to_any(plain, self._shots, self.settings.near_shot) else None


def _is_long(plain: str) -> bool:
    """Return whether a comparable text has at least four words; a shorter one may occur in another by chance."""
    if plain.isascii():
        return plain.count(" ") >= 3
    # In scripts without blanks, each pair of neighbouring characters counts as a word: twice as many as real words.
    return sum(1 / CHARS_PER_WORD if has_unspaced(word) else 1 for word in plain.split(" ")) >= 4


def is_malformed(text: str, settings: FilterSettings) -> bool:
    """Return whether a text is empty, has broken characters, is mostly not letters, or repeats the same few words."""
    solid = "".join(text.split())
    if not solid or "\ufffd" in text:
        return True
    if sum(map(str.isalpha, solid)) < settings.min_letters * len(without_marks(solid)):
        return True
    words = comparable(text).split()
    return len(words) >= 12 and len(set(words)) < settings.min_distinct_words * len(words)


def clean_completion(task: Task, raw: str) -> str:
    """Return the input that a model wrote, cleaned; for a task with fields, only the lines of fields that it wrote."""
    if not task.input_fields:
        return clean_text(raw)
    written = written_fields(task.input_fields, raw)
    values = {field: clean_text(value, first_line_only=False) for field, value in written.items()}
    return join_fields(task.input_fields, {field: value for field, value in values.items() if value})


def clean_text(raw: str, first_line_only: bool = True) -> str:
    """Return a completion without what models put around texts: outer quotes, a bullet or number, blanks, line breaks.

    ``first_line_only`` drops everything after the first line that is not blank. Otherwise, line breaks become spaces,
    as they do in every prompt. Cleaning is idempotent.
    """
    text = unicodedata.normalize("NFC", raw)
    if first_line_only:
        text = next((line for line in text.splitlines() if line.strip()), "")
    text = " ".join(text.split())
    while (shorter := _unwrap(text)) != text:
        text = shorter
    return text


def _unwrap(text: str) -> str:
    text = _BULLET.sub("", text, count=1).strip()
    for opening, closing in _QUOTES.items():
        if not text.startswith(opening):
            continue
        inner = text[len(opening) : len(text) - len(closing)]
        if len(text) > len(opening) + len(closing) and text.endswith(closing):
            # "Yes" and "no" is not one quoted text: its quotation marks close before the end.
            return inner.strip() if closing not in inner else text
        if closing not in text[len(opening) :] and opening not in "'‘`»‚":  # noqa: RUF001
            return text[len(opening) :].strip()  # opened and cut off before it closed
    return text[:-1].strip() if text.count('"') == 1 and re.search(r'[.!?]"$', text) else text

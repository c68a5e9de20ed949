"""Determine what the cells of a column look like: texts, sentences or labels."""

import re
from collections.abc import Sequence
from typing import Any

from fourshot.pipeline.rows.labels.cells import read_label
from fourshot.pipeline.rows.text_words import UNSPACED, count_words, without_marks
from fourshot.pipeline.tables.files import Table

MOST_CLASSES = 200  # of a column that is found by its contents
WORDS_OF_A_SENTENCE = 5
_LETTERS = re.compile(r"[^\W\d_]{2}")


def values_of(table: Table, column: str) -> list[Any]:
    values = (row.get(column) for row in table.rows.values())
    return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]


def is_worded(values: Sequence[Any]) -> bool:
    """Return whether most values are several words, unlike dates and amounts; one, in scripts without spaces."""
    texts = [without_marks(value.strip()) for value in values if isinstance(value, str)]  # so letters are adjacent
    worded = sum(any(map(_LETTERS.search, text.split()[:-1])) or bool(UNSPACED.search(text)) for text in texts)
    return worded > len(values) / 2


def looks_like_text(values: Sequence[Any]) -> bool:
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if not is_worded(values):
        return False
    # Sentences may be repeated, such as a passage with several questions. Labels of two or three words are.
    return len(set(texts)) > len(texts) * (0.1 if has_sentences(texts) else 0.5)


def has_sentences(values: Sequence[Any]) -> bool:
    """Return whether cells with a text have five or more words on average."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    return bool(texts) and sum(map(count_words, texts)) >= WORDS_OF_A_SENTENCE * len(texts)


def is_varied(values: Sequence[Any]) -> bool:
    """Return whether most values are strings with letters, and most of these differ, unlike labels."""
    texts = [value.strip() for value in values if isinstance(value, str) and _LETTERS.search(value)]
    return len(texts) > len(values) / 2 and len(set(texts)) > len(texts) / 2


def looks_like_label(values: Sequence[Any]) -> bool:
    distinct, filled = set(), 0
    for value in values:
        text = plain_cell(value)
        distinct.add(text)
        filled += bool(text)
        if len(text) > 40 or len(distinct) > MOST_CLASSES + 1:
            return False
    return 1 < len(distinct - {""}) <= min(MOST_CLASSES, len(values) / 2) and filled >= len(values) / 2


def repeats_names(values: Sequence[Any]) -> bool:
    """Return whether cells could be labels, except for length or number: strings with letters, mostly repeated."""
    if looks_like_label(values):
        return False
    texts = [text for value in values if isinstance(value, str) and (text := plain_cell(value))]
    worded = sum(bool(_LETTERS.search(text)) for text in texts)
    return 1 < len(set(texts)) <= len(texts) / 2 and worded >= len(values) / 2


def plain_cell(value: Any) -> str:
    """Return the labels in a cell, joined by ", "; "" if it has none or is an object."""
    try:
        return ", ".join(read_label(value).labels)
    except ValueError:
        return ""

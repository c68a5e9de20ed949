"""Split texts into words for comparison, in every script: each use has its own definition of a word.

In scripts that put no blanks between words, each pair of neighbouring characters counts as a word, as in search
engines. Source: Lucene's CJKBigramFilter. Combining marks belong to their letter: without them, many different Hindi
words would be equal. Importing this module loads neither torch nor vllm.
"""

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

from fourshot.pipeline.rows.text_words import MARK, characters, has_unspaced, marks, script_runs

_WITH_APOSTROPHES = r"{letter}+(?:['\u2019]{letter}+)*"
_LETTERS_AND_DIGITS = r"{letter}+"
_WITH_UNDERSCORES = r"(?:_|{letter})+"


def words(text: str) -> list[str]:
    """Return the words of ``text`` for counting: in lower case, without punctuation; "it's" is one word."""
    return _matches(_WITH_APOSTROPHES, text.lower())


def spelt_words(text: str) -> set[str]:
    """Return the distinct words as they are spelt, split as tokenizers split them: "it's" is two."""
    return set(_matches(_LETTERS_AND_DIGITS, text))


@lru_cache(maxsize=4)  # a text is compared with several others in succession
def comparable(text: str) -> str:
    """Return ``text`` without what two duplicates may differ in: case, punctuation, whitespace."""
    return " ".join(_matches(_WITH_UNDERSCORES, text.casefold()))


def _matches(pattern: str, text: str) -> list[str]:
    if text.isascii():
        return _compiled(pattern, has_marks=False).findall(text)
    is_unspaced = has_unspaced(text)
    if is_unspaced:
        text = unicodedata.normalize("NFKC", text)  # full-width and half-width forms count as equal
    if has_marks := marks().search(text) is not None:
        text = unicodedata.normalize("NFC", text)
    matches = _compiled(pattern, has_marks).findall(text)
    return [part for word in matches for part in _pairs(word)] if is_unspaced else matches


def _pairs(word: str) -> list[str]:
    """Return the parts of ``word``: runs of scripts with blanks unchanged, others as pairs of neighbouring characters.

    A single character of a script without blanks is a part by itself.
    """
    parts = []
    for run in script_runs(word):
        signs = characters(run) if has_unspaced(run) else [run]
        parts += [first + second for first, second in pairwise(signs)] or signs
    return parts


@lru_cache
def _compiled(pattern: str, has_marks: bool) -> "re.Pattern[str]":
    if not has_marks:
        return re.compile(pattern.format(letter=r"[^\W_]"))
    import regex

    with_marks: re.Pattern[str] = regex.compile(pattern.format(letter=rf"(?:[\p{{L}}\p{{N}}]{MARK}*)"), regex.V1)
    return with_marks

"""What counts as a word: each use draws the line elsewhere.

Importing this module loads neither torch nor vllm.
"""

import re
from functools import lru_cache

_WITH_APOSTROPHES = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_LETTERS_AND_DIGITS = re.compile(r"[^\W_]+")
_WITH_UNDERSCORES = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """For counting: in lower case, punctuation dropped; "it's" is one word."""
    return _WITH_APOSTROPHES.findall(text.lower())


def spelt_words(text: str) -> set[str]:
    """The different words as they are spelt, in pieces as tokenizers have them: "it's" is two."""
    return set(_LETTERS_AND_DIGITS.findall(text))


@lru_cache(maxsize=4)  # a text is compared with several others in turn
def comparable(text: str) -> str:
    """A text without what two duplicates may differ in: case, punctuation, whitespace."""
    return " ".join(_WITH_UNDERSCORES.findall(text.casefold()))

"""Near duplicates among many short texts: MinHash proposes, a string distance decides.

Importing this module loads neither torch nor vllm; numpy and datasketch are loaded when the first index is made.
"""

import re
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasketch import MinHash

_WORD = re.compile(r"\w+")
# 16 bands of 4 rows: texts that share 80 % of their words are proposed with probability 0.9998, 60 % 0.89, 30 % 0.12.
# Source: Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4 (1 - (1 - s^r)^b).
_BANDS, _ROWS = 16, 4
# token_set_ratio is 100 for a text and any excerpt of it; texts whose lengths differ by more are not duplicates.
_LENGTH_RATIO = 0.6


class NearDuplicates:
    """Texts seen so far, and whether a new one is nearly one of them. About 0.25 ms a text, however many there are."""

    def __init__(self, threshold: float) -> None:
        """``threshold``: similarity from 0 to 1 at which two texts count as duplicates."""
        from datasketch import MinHash, MinHashLSH

        # crc32 rather than datasketch's SHA-1: the hash need only spread, and this is called for every word.
        self._empty = MinHash(num_perm=_BANDS * _ROWS, seed=1, hashfunc=zlib.crc32)
        self._index = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
        self._texts: list[str] = []
        self._threshold = threshold

    def __len__(self) -> int:
        return len(self._texts)

    def find(self, text: str) -> str | None:
        """A text added before that is nearly the same (as `comparable` writes it), or None."""
        return self._nearest(comparable(text))[0]

    def add(self, text: str) -> None:
        """Remember a text."""
        plain = comparable(text)
        self._insert(plain, self._hash(plain))

    def find_or_add(self, text: str) -> str | None:
        """As `find`; where nothing is found the text is remembered."""
        plain = comparable(text)
        found, hashed = self._nearest(plain)
        if found is None:
            self._insert(plain, hashed)
        return found

    def _nearest(self, plain: str) -> "tuple[str | None, MinHash]":
        hashed = self._hash(plain)
        for key in sorted(self._index.query(hashed)):
            if similar(plain, self._texts[key], self._threshold):
                return self._texts[key], hashed
        return None, hashed

    def _insert(self, plain: str, hashed: "MinHash") -> None:
        self._index.insert(len(self._texts), hashed, check_duplication=False)
        self._texts.append(plain)

    def _hash(self, plain: str) -> "MinHash":
        words = set(plain.split())
        if len(words) < 4:  # too few to compare sets of; also scripts without spaces between words
            words = {plain[i : i + 3] for i in range(max(1, len(plain) - 2))}
        hashed = self._empty.copy()
        hashed.update_batch([word.encode() for word in sorted(words)])
        return hashed


def comparable(text: str) -> str:
    """A text without what two duplicates may differ in: case, punctuation, whitespace."""
    return " ".join(_WORD.findall(text.casefold()))


def similar(one: str, other: str, threshold: float) -> bool:
    """Whether two comparable texts are nearly the same: token-set similarity at or above ``threshold`` (0 to 1).

    Source: the ratio is rapidfuzz's ``fuzz.token_set_ratio``: word order and repeated words do not count.
    """
    from rapidfuzz import fuzz

    shorter, longer = sorted((len(one), len(other)))
    if shorter < _LENGTH_RATIO * longer:
        return False
    return fuzz.token_set_ratio(one, other, score_cutoff=100 * threshold) > 0

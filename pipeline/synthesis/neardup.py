"""Near duplicates among many short texts: MinHash proposes pairs, a string distance decides.

Importing this module loads neither torch nor vllm; numpy is loaded when the first index is made.
"""

import zlib
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from fourshot.pipeline.synthesis.words import comparable

if TYPE_CHECKING:
    import numpy as np

# 16 bands of 4 rows: texts that share 80 % of their shingles are proposed with probability 0.9998, 60 % 0.89, 30 %
# 0.12.
# Source: Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4 (1 - (1 - s^r)^b).
_BANDS, _ROWS = 16, 4
_SEED = 1
# Thousands of texts of one pattern ("What is the ... of ...") may share a band. Of those, only the last are visited,
# and of these only the likeliest compared; a near duplicate shares rarer bands with the text, too.
_LONGEST_WALK = 16
_MOST_COMPARED = 20
_FIRST_SIZE = 64  # texts; doubled whenever it is full
# token_set_ratio is 100 for a text and any excerpt of it; texts whose lengths differ by more are not duplicates.
_LENGTH_RATIO = 0.6


class NearDuplicates:
    """Index of the texts seen so far that finds near duplicates of a new one.

    There is a hash table for each band, in arrays: the head of a slot is the last text in it, and each text links to
    the one before. So neither time nor memory per text grows with their number (bench/results/neardup-*.json). The
    price is recall: of TREC's 5,380 different training questions, 329 are near duplicates of an earlier one. Of these,
    256 are found; the others say the same in another word order.
    """

    def __init__(self, threshold: float) -> None:
        """``threshold``: similarity from 0 to 1 at which two texts count as duplicates."""
        import numpy as np

        self._threshold = threshold
        self._texts = [""]  # text 0 is a sentinel: it ends every walk
        # Flat, because `take` is several times faster than indexing by two arrays: [texts * bands], [bands * slots].
        self._bands = np.zeros(_FIRST_SIZE * _BANDS, dtype=np.uint32)
        self._before = np.zeros(_FIRST_SIZE * _BANDS, dtype=np.int32)  # the previous text in the same slot
        self._heads = np.zeros(_BANDS * _FIRST_SIZE, dtype=np.int32)
        self._columns = np.arange(_BANDS)
        self._size = _FIRST_SIZE  # capacity in texts, and slots per band

    def __len__(self) -> int:
        return len(self._texts) - 1

    def find(self, text: str) -> str | None:
        """Return a text added before that is nearly the same (in the form of `comparable`), or None."""
        plain = comparable(text)
        proposed = (self._texts[key] for key in self._likeliest(_bands_of(plain)))
        return next((other for other in proposed if similar_to_any(plain, (other,), self._threshold)), None)

    def add(self, text: str) -> None:
        """Add a text to the index."""
        key = len(self._texts)
        if key == self._size:
            self._grow()
        plain = comparable(text)
        bands = _bands_of(plain)
        slots = self._slots(bands)
        self._bands[key * _BANDS : (key + 1) * _BANDS] = bands
        self._before[key * _BANDS : (key + 1) * _BANDS] = self._heads.take(slots)
        self._heads[slots] = key
        self._texts.append(plain)

    def find_or_add(self, text: str) -> str | None:
        """Return `find` of a text; add the text if nothing is found."""
        near = self.find(text)
        if near is None:
            self.add(text)
        return near

    def _slots(self, bands: "np.ndarray") -> "np.ndarray":
        """Return the positions of the bands' slots among the heads."""
        return (bands & (self._size - 1)) + self._columns * self._size

    def _likeliest(self, bands: "np.ndarray") -> list[int]:
        """Return the numbers of texts that share bands: those with most in common first, then the oldest."""
        import numpy as np

        at = self._heads.take(self._slots(bands))
        shared: Counter[int] = Counter()
        for _ in range(_LONGEST_WALK):
            if not np.count_nonzero(at):
                break
            places = at * _BANDS + self._columns
            same = self._bands.take(places) == bands
            if np.count_nonzero(same):
                shared.update(at[same].tolist())
            at = self._before.take(places)
        del shared[0]
        return sorted(shared, key=lambda key: (-shared[key], key))[:_MOST_COMPARED]

    def _grow(self) -> None:
        """Double the capacity and the number of slots."""
        import numpy as np

        size = self._size
        self._size *= 2
        self._bands = np.concatenate([self._bands, np.zeros_like(self._bands)])
        self._before = np.zeros(self._size * _BANDS, dtype=np.int32)
        self._heads = np.zeros(_BANDS * self._size, dtype=np.int32)
        keys = np.arange(1, size)
        for band in range(_BANDS):
            slots = self._bands[_BANDS + band : size * _BANDS : _BANDS] & (self._size - 1)
            order = np.argsort(slots, kind="stable")
            follows = slots[order[1:]] == slots[order[:-1]]
            self._before[keys[order[1:][follows]] * _BANDS + band] = keys[order[:-1][follows]]
            self._heads[slots + np.uint64(band * self._size)] = keys  # the last text of a slot becomes its head


@lru_cache(maxsize=2)
def _bands_of(plain: str) -> "np.ndarray":
    """Return a hash of each band of a text's MinHash, uint32 [_BANDS]. Cached for the `add` that follows a `find`."""
    import numpy as np

    words = plain.encode().split(b" ")
    if len(words) < 4:  # too few to compare as sets; also scripts without spaces between words
        words = [plain[i : i + 3].encode() for i in range(max(1, len(plain) - 2))]
    hashes = np.fromiter(map(zlib.crc32, words), dtype=np.uint64, count=len(words))
    factors, addends, pair, mix = _constants()
    # Pairs of words too: texts of one pattern share words, but few pairs.
    shingles = np.concatenate([hashes, (hashes[:-1] * pair + hashes[1:]) * mix]) if len(words) >= 4 else hashes
    rows = ((factors * shingles[:, None] + addends) >> np.uint64(32)).min(axis=0)
    combined = (rows.reshape(_BANDS, _ROWS) * factors[:_ROWS]).sum(axis=1)
    return (combined >> np.uint64(32)).astype(np.uint32)


@lru_cache(maxsize=1)
def _constants() -> "tuple[np.ndarray, np.ndarray, np.uint64, np.uint64]":
    """Return odd factors, and addends, of the hash functions, each [_BANDS * _ROWS], and two more odd factors.

    Source: Dietzfelbinger 1996, "Universal hashing and k-wise independent random variables via integer arithmetic
    without primes" (multiply, add, shift).
    """
    import numpy as np

    draw = np.random.RandomState(_SEED)
    words = draw.randint(0, 1 << 32, size=(4 * _BANDS * _ROWS + 4), dtype=np.uint64)
    numbers = (words[0::2] << np.uint64(32)) | words[1::2]
    factors, addends = numbers[: _BANDS * _ROWS] | np.uint64(1), numbers[_BANDS * _ROWS : 2 * _BANDS * _ROWS]
    return factors, addends, numbers[-2] | np.uint64(1), numbers[-1] | np.uint64(1)


def similar_to_any(text: str, others: Iterable[str], threshold: float) -> bool:
    """Return whether a comparable text has token-set similarity of ``threshold`` (0 to 1) or more to any of ``others``.

    Source: the ratio is rapidfuzz's ``fuzz.token_set_ratio``: word order and repeated words do not count.
    """
    from rapidfuzz import fuzz, process

    length = len(text)
    alike = [other for other in others if _LENGTH_RATIO * length <= len(other) <= length / _LENGTH_RATIO]
    best = process.extractOne(text, alike, scorer=fuzz.token_set_ratio, score_cutoff=100 * threshold) if alike else None
    return best is not None

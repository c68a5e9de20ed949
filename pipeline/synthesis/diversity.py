"""Diversity of a set of texts: distinct word tri-grams by number of texts, and word frequencies."""

from collections import Counter
from collections.abc import Sequence

from fourshot.pipeline.synthesis.words import words

# Pieces of contractions in tokenised corpora ("wo n't", "it 's"); wordcloud's stop words have only complete ones.
_CONTRACTION_PIECES = frozenset({"n't", "s", "t", "re", "ve", "ll", "d", "m", "nt", "lrb", "rrb"})


def trigrams(text: str) -> set[tuple[str, str, str]]:
    """Return the distinct word tri-grams of one text; none if it has fewer than three words."""
    sequence = words(text)
    return set(zip(sequence, sequence[1:], sequence[2:], strict=False))


def distinct(texts: Sequence[str], n: int) -> float:
    """Return the number of distinct word n-grams divided by that of all; 0 if no text has n words.

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models", section 5.
    """
    grams = [gram for sequence in map(words, texts) for gram in zip(*(sequence[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else 0.0


def unique_trigram_curve(texts: Sequence[str], sizes: Sequence[int]) -> list[float]:
    """Return the expected number of distinct tri-grams among that many texts, for each of ``sizes`` (0 .. len(texts)).

    This is the mean over all orders in which the texts could be counted, in closed form, so it needs no seed: a
    tri-gram that occurs in d of N texts is missed by a sample of n with probability C(N - d, n) / C(N, n).
    Source: for the quantity, Patwa et al. 2024, figure 7; for the expectation, Hurlbert 1971, "The Nonconcept of
    Species Diversity", rarefaction. Raises ValueError for no texts or a size out of range.
    """
    import numpy as np

    total = len(texts)
    if total == 0:
        raise ValueError("there are no texts for a tri-gram curve: give at least one")
    draws = np.asarray(sizes, dtype=np.int64)
    if draws.size and (draws.min() < 0 or draws.max() > total):
        raise ValueError(f"sizes must lie between 0 and the {total} texts, got {draws.min()} to {draws.max()}")
    num_texts_with = Counter(trigram for text in texts for trigram in trigrams(text))
    num_trigrams = Counter(num_texts_with.values())
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    expected = np.zeros(draws.shape)
    for d, count in num_trigrams.items():
        rest = np.maximum(total - d - draws, 0)
        log_missed = (
            log_factorial[total - d] + log_factorial[total - draws] - log_factorial[rest] - log_factorial[total]
        )
        expected += count * np.where(draws > total - d, 1.0, -np.expm1(np.minimum(log_missed, 0.0)))
    return [float(value) for value in expected]


def word_frequencies(texts: Sequence[str], limit: int = 60) -> dict[str, int]:
    """Return the ``limit`` most frequent words except stop words and numbers, most frequent first, ties by alphabet."""
    from wordcloud import STOPWORDS  # loads Pillow, which nothing else of this module needs

    ignored = STOPWORDS | _CONTRACTION_PIECES
    counts = Counter(
        word for text in texts for word in words(text) if len(word) > 1 and not word.isdigit() and word not in ignored
    )
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])

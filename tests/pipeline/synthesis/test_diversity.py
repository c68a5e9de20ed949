from itertools import permutations
from statistics import fmean

import pytest

from fourshot.pipeline.synthesis.diversity import trigrams, unique_trigram_curve, word_frequencies
from fourshot.pipeline.synthesis.words import words

TEXTS = [
    "the film is a quiet joy",
    "the film is a mess",
    "A quiet joy, from start to end.",
    "too short",
    "the film is a quiet joy",
]


def test_the_curve_is_the_mean_over_all_orders() -> None:
    sizes = range(len(TEXTS) + 1)
    counted = [
        [len(set().union(*(trigrams(text) for text in order[:size]))) for size in sizes]
        for order in permutations(TEXTS)
    ]
    by_hand = [fmean(order[size] for order in counted) for size in sizes]
    assert unique_trigram_curve(TEXTS, list(sizes)) == pytest.approx(by_hand)


def test_repeated_texts_add_nothing() -> None:
    assert unique_trigram_curve(["one two three four"] * 50, [1, 25, 50]) == pytest.approx([2, 2, 2])


def test_many_texts_end_at_the_number_of_all_trigrams() -> None:
    texts = [f"text number {i} of many" for i in range(3000)]
    # "number i of", "text number i", "i of many": three per text, none shared.
    assert unique_trigram_curve(texts, [0, 1500, 3000]) == pytest.approx([0, 4500, 9000])


@pytest.mark.parametrize(("texts", "sizes"), [([], [0]), (["a b c"], [2]), (["a b c"], [-1])])
def test_a_curve_of_nothing_or_beyond_the_texts_raises(texts: list[str], sizes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"no texts for a tri-gram curve|sizes must lie between"):
        unique_trigram_curve(texts, sizes)


def test_words_are_lower_case_without_punctuation() -> None:
    assert words("It's GOOD -- naïve, 2nd-rate_fun!") == ["it's", "good", "naïve", "2nd", "rate", "fun"]


def test_frequent_words_leave_out_stop_words_numbers_and_pieces_of_contractions() -> None:
    frequencies = word_frequencies(["the film wo n't end , the film 's 2004", "a film ends; it's an end"], limit=2)
    assert list(frequencies.items()) == [("film", 3), ("end", 2)]

"""What the queue counts as work: tokens that the prefix cache is not expected to answer."""

from fourshot.serving.models.scorer import BEGINNING_TOKENS, MOST_BEGINNINGS, ExpectedHits

SHARED = list(range(BEGINNING_TOKENS))


def test_a_prompt_is_expected_to_hit_as_the_last_one_that_began_like_it() -> None:
    hits = ExpectedHits()
    assert hits.expected("", [*SHARED, 1, 2]) == 0
    hits.record("", [*SHARED, 1, 2], BEGINNING_TOKENS)
    assert hits.expected("", [*SHARED, 3]) == BEGINNING_TOKENS
    assert hits.expected("an adapter", [*SHARED, 3]) == 0
    hits.record("", [*SHARED, 3], 0)  # it was driven out
    assert hits.expected("", [*SHARED, 4]) == 0


def test_something_is_always_left_to_do_and_memory_is_bounded() -> None:
    hits = ExpectedHits()
    hits.record("", SHARED, 500)
    assert hits.expected("", SHARED) == BEGINNING_TOKENS - 1
    for number in range(MOST_BEGINNINGS + 10):
        hits.record("", [number], 1)
    assert hits.expected("", SHARED) == 0
    assert hits.expected("", [MOST_BEGINNINGS + 9, 5]) == 0

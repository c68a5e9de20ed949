"""Texts that stand there several times, or are measured on: which of them are learnt."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from fourshot.pipeline.faults import clipped, counted
from fourshot.pipeline.rows.examples import normalised_text

T = TypeVar("T")


def unseen(
    items: Iterable[T],
    text_of: Callable[[T], str],
    earlier: Iterable[str],
    tested: Iterable[str],
    is_own: Callable[[T], bool] = lambda item: False,
) -> tuple[list[T], int, int]:
    """Those whose text is neither measured on (``tested``), nor among ``earlier`` ones or those before it.

    What a person says of a text (``is_own``) counts before what a teacher does, wherever it stands. Beside them, how
    many were measured on, and how many were repeated.
    """
    test_keys, keys = set(map(normalised_text, tested)), set(map(normalised_text, earlier))
    usable, measured, repeated = dict[int, T](), 0, 0
    for place, item in sorted(enumerate(items), key=lambda placed: not is_own(placed[1])):
        if (key := normalised_text(text_of(item))) in test_keys:
            measured += 1
        elif key in keys:
            repeated += 1
        else:
            keys.add(key)
            usable[place] = item
    return [usable[place] for place in sorted(usable)], measured, repeated


def torn(answers: Iterable[tuple[str, Hashable]]) -> dict[str, str]:
    """Of (text, what a person says of it), the texts with several answers, by what equal ones have in common."""
    texts, answers_by_text = dict[str, str](), defaultdict[str, set[Hashable]](set)
    for text, answer in answers:
        key = normalised_text(text)
        texts.setdefault(key, text)
        answers_by_text[key].add(answer)
    return {key: text for key, text in texts.items() if len(answers_by_text[key]) > 1}


def torn_notes(torn_texts: dict[str, str], noun: str, fate: str) -> list[str]:
    """For people: what becomes of `torn` texts; nothing where there are none."""
    if not torn_texts:
        return []
    first = clipped(" ".join(next(iter(torn_texts.values())).split()), 60)
    return [f"{counted(len(torn_texts), noun)} with different answers of a person, such as {first!r}: {fate}"]

"""Select the texts to train on: no test texts, and each repeated text once; and report what a person changed."""

from collections import Counter, defaultdict
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
    """Return the items whose text is neither a test text (``tested``), nor in ``earlier``, nor that of another item.

    They keep their order. Of items with the same text, one labelled by a person (``is_own``) is preferred to one
    labelled by a teacher, and the first otherwise. Also return how many were test texts, and how many were repeated.
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


def contradicting_texts(answers: Iterable[tuple[str, Hashable]]) -> dict[str, str]:
    """Return normalised text -> text for texts with different answers, from pairs of a text and a person's answer."""
    texts, answers_by_text = dict[str, str](), defaultdict[str, set[Hashable]](set)
    for text, answer in answers:
        key = normalised_text(text)
        texts.setdefault(key, text)
        answers_by_text[key].add(answer)
    return {key: text for key, text in texts.items() if len(answers_by_text[key]) > 1}


def contradiction_notes(texts: dict[str, str], noun: str, fate: str) -> list[str]:
    """Return a note for the user about the ``fate`` of `contradicting_texts`; empty if there are none."""
    if not texts:
        return []
    first = clipped(" ".join(next(iter(texts.values())).split()), 60)
    return [f"{counted(len(texts), noun)} with different answers from a person, such as {first!r}: {fate}"]


def corrections(table_name: str, texts: Iterable[str], out: str, remaining_texts: Iterable[str]) -> list[str]:
    """Return notes on texts of ``table_name`` that a person removed from ``out``, and on texts added there."""
    before, after = (Counter(map(normalised_text, table_texts)) for table_texts in (texts, remaining_texts))
    gone, new = (before - after).total(), (after - before).total()
    notes = [f"{counted(gone, 'text')} of {table_name} no longer in {out}, and not used for training"] if gone else []
    return notes + (
        [f"{counted(new, 'text')} in {out} not of {table_name}: added or changed, and used for training"] if new else []
    )

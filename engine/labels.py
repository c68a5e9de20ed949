"""Label words as token ids, and the trie that scores words of several tokens."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine.errors import InputError
from fourshot.engine.tokens import ANCHOR, encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TERMINATOR = "\n"


class LabelTokens(msgspec.Struct, frozen=True, kw_only=True):
    """What the model must say for each label. Prefix-free: no label's ids begin another label's ids."""

    words: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]  # [num_labels][label_tokens], as a continuation of a prompt
    single: bool  # every label is one token of its own, so one step scores them all
    terminated: bool  # ids end with the newline, because one word's tokens begin another word's

    @property
    def longest(self) -> int:
        return max(len(ids) for ids in self.ids)

    def questions(self, most: int) -> list["Question"]:
        """The trie as questions of at most ``most`` tokens; a label's log-probability is the sum of its answers."""
        children: dict[tuple[int, ...], dict[int, list[int]]] = {}
        for column, ids in enumerate(self.ids):
            for depth, token in enumerate(ids):
                children.setdefault(ids[:depth], {}).setdefault(token, []).append(column)
        return [
            Question(prefix=prefix, tokens=tokens, columns=tuple(tuple(followers[token]) for token in tokens))
            for prefix, followers in children.items()
            for tokens in _batches(followers, most)
        ]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """How likely is each of ``tokens`` after the prompt and ``prefix``?"""

    prefix: tuple[int, ...]
    tokens: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]  # for each token, the labels it belongs to


def label_tokens(tokenizer: "PreTrainedTokenizerBase", words: Sequence[str]) -> LabelTokens:
    """Token ids of label ``words`` as they continue a prompt that ends in a colon.

    Raises InputError for no words, an empty or padded word, words the model cannot tell apart, and words that the
    tokenizer merges with what stands before them.
    """
    if not words:
        raise InputError("There are no labels to score. Give at least one label word.")
    for word in words:
        if not word or word != word.strip():
            raise InputError(f"Label word {word!r} is empty or has spaces around it. Give the bare word.")
    ids = [_continuation(tokenizer, f" {word}") for word in words]
    _check_distinct(words, ids)
    terminated = _has_prefix(ids)
    if terminated:
        ids = [_continuation(tokenizer, f" {word}{TERMINATOR}") for word in words]
        if _has_prefix(ids):
            raise InputError(
                f"The label words {list(words)} stay ambiguous even with a line end after them. Rename one."
            )
    single = all(len(label) == 1 for label in ids)
    return LabelTokens(words=tuple(words), ids=tuple(ids), single=single, terminated=terminated)


def _continuation(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[int, ...]:
    """Ids of ``text`` after the anchor. Not ids of ``text`` alone: tokenizers treat the start of a text specially."""
    anchor = encode_prompt(tokenizer, ANCHOR)
    whole = encode_prompt(tokenizer, ANCHOR + text)
    if whole[: len(anchor)] != anchor or len(whole) == len(anchor):
        raise InputError(
            f"This model's tokenizer merges the label word {text.strip()!r} with the text before it ({ANCHOR!r}), so "
            "it cannot be scored on its own. Give the label another word."
        )
    return tuple(whole[len(anchor) :])


def _check_distinct(words: Sequence[str], ids: Sequence[tuple[int, ...]]) -> None:
    by_ids: dict[tuple[int, ...], list[str]] = {}
    for word, label in zip(words, ids, strict=True):
        by_ids.setdefault(label, []).append(word)
    same = [group for group in by_ids.values() if len(group) > 1]
    if same:
        raise InputError(
            f"The model cannot tell these label words apart, they are the same tokens: {same}. "
            "Give each label a word of its own."
        )


def _has_prefix(ids: Sequence[tuple[int, ...]]) -> bool:
    """Whether one label's ids begin another's. In sorted order a prefix stands directly before one it begins."""
    ordered = sorted(ids)
    return any(later[: len(earlier)] == earlier for earlier, later in pairwise(ordered))


def _batches(tokens: Iterable[int], most: int) -> Iterator[tuple[int, ...]]:
    rest = iter(tokens)
    while batch := tuple(islice(rest, most)):
        yield batch

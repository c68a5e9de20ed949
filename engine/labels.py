"""What a model says for each label: whole words, scored by a trie, or tokens of one step."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise, product
from typing import TYPE_CHECKING

import msgspec

from fourshot.engine.core import Verbalizer
from fourshot.engine.errors import InputError
from fourshot.engine.tokens import ANCHOR, encode_prompt, encode_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TERMINATOR = "\n"
MOST_REQUESTS = 16  # per text, for whole words, before `auto` takes the beginnings that tell them apart


class LabelTokens(msgspec.Struct, frozen=True, kw_only=True):
    """What the model must say for each label. Prefix-free: no label's ids begin another label's ids."""

    words: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]  # [num_labels][label_tokens], as a continuation of a prompt
    terminated: bool  # ids end with the newline, because one word's tokens begin another word's

    @property
    def one_step(self) -> bool:
        """Whether every label is one token of its own, so that one step scores them all."""
        return self.longest == 1

    @property
    def longest(self) -> int:
        return max(len(ids) for ids in self.ids)

    def questions(self, max_tokens: int) -> list["Question"]:
        """The trie as questions of at most ``max_tokens`` each; a label's log-probability is the sum of its answers."""
        children: dict[tuple[int, ...], dict[int, list[int]]] = {}
        for column, ids in enumerate(self.ids):
            for depth, token in enumerate(ids):
                children.setdefault(ids[:depth], {}).setdefault(token, []).append(column)
        return [
            Question(prefix=prefix, tokens=tokens, columns=tuple(tuple(followers[token]) for token in tokens))
            for prefix, followers in children.items()
            for tokens in _batches(followers, max_tokens)
        ]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """How likely is each of ``tokens`` after the prompt and ``prefix``?"""

    prefix: tuple[int, ...]
    tokens: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]  # for each token, the labels it belongs to


def label_tokens(
    tokenizer: "PreTrainedTokenizerBase", words: Sequence[str], verbalizer: Verbalizer = "word"
) -> LabelTokens:
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
    if verbalizer == "token":
        single_ids = tuple((token,) for token in _own_tokens(tokenizer, ids))
        return LabelTokens(words=tuple(words), ids=single_ids, terminated=False)
    terminated = _has_prefix(ids)
    if terminated:
        ids = [_continuation(tokenizer, f" {word}{TERMINATOR}") for word in words]
        if _has_prefix(ids):
            raise InputError(
                f"The label words {list(words)} stay ambiguous even with a line end after them. Rename one."
            )
    if _is_shortened(ids, verbalizer):
        ids = _distinct_prefixes(ids)
    return LabelTokens(words=tuple(words), ids=tuple(ids), terminated=terminated)


def num_requests(ids: Sequence[tuple[int, ...]], verbalizer: Verbalizer) -> int:
    """For one text and words of these tokens, where one request scores all that may follow a beginning."""
    if verbalizer == "token":
        return 1
    return _num_beginnings(_distinct_prefixes(ids) if _is_shortened(ids, verbalizer) else ids)


def _is_shortened(ids: Sequence[tuple[int, ...]], verbalizer: Verbalizer) -> bool:
    return verbalizer == "prefix" or (verbalizer == "auto" and _num_beginnings(ids) > MOST_REQUESTS)


def _num_beginnings(ids: Sequence[tuple[int, ...]]) -> int:
    return len({word[:depth] for word in ids for depth in range(len(word))})


def _distinct_prefixes(ids: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Of each word, what comes up to the first token that no other word has after the same ones; else the word."""
    beginnings = Counter(word[:length] for word in ids for length in range(1, len(word) + 1))
    return [next((word[:n] for n in range(1, len(word) + 1) if beginnings[word[:n]] == 1), word) for word in ids]


def _own_tokens(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[tuple[int, ...]]) -> list[int]:
    """One token for each label, no two the same: one of its word that tells it apart, else a code.

    ``ids``: of the words. A word of one token keeps it. Each other one takes its first token that no label has yet and
    that no other label without a token has in the same place; tokens without a letter or digit come last, and blanks
    are none.
    """
    assigned: dict[int, int] = {label: word[0] for label, word in enumerate(ids) if len(word) == 1}
    texts = {token: tokenizer.decode([token]).strip() for word in ids for token in word}
    readable = {token: any(character.isalnum() for character in text) for token, text in texts.items()}
    for is_readable in (True, False):
        for place in range(max(map(len, ids))):
            used = set(assigned.values())
            offers: dict[int, list[int]] = {}
            for label, word in enumerate(ids):
                if (
                    label not in assigned
                    and place < len(word)
                    and texts[word[place]]
                    and readable[word[place]] == is_readable
                ):
                    offers.setdefault(word[place], []).append(label)
            assigned |= {labels[0]: token for token, labels in offers.items() if len(labels) == 1 and token not in used}
    codes = _codes(tokenizer, {token for word in ids for token in word})
    return [assigned[label] if label in assigned else next(codes) for label in range(len(ids))]


def _codes(tokenizer: "PreTrainedTokenizerBase", avoided: set[int]) -> Iterator[int]:
    """Tokens that say nothing about a class: capital letters, pairs of them, then whatever the vocabulary has.

    None of ``avoided``, each once. Raises InputError when there are no more.
    """
    letters = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
    texts = [*letters, *map("".join, product(letters, repeat=2))]
    anchor, *encoded = encode_prompts(tokenizer, [ANCHOR, *(f"{ANCHOR} {text}" for text in texts)])
    unwanted = {*tokenizer.all_special_ids, *avoided}
    single = (ids[-1] for ids in encoded if ids[:-1] == anchor)
    for token in dict.fromkeys((*single, *range(tokenizer.vocab_size))):
        if token not in unwanted and tokenizer.decode([token]).strip():
            yield token
    raise InputError(
        f"This model's tokenizer has {tokenizer.vocab_size} tokens, too few for a token for each label. Take another "
        "base model, or let adapters learn whole words (verbalizer=word)."
    )


def _continuation(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[int, ...]:
    """Ids of ``text`` after the anchor. Not ids of ``text`` alone: tokenizers treat the start of a text specially."""
    anchor = encode_prompt(tokenizer, ANCHOR)
    ids = encode_prompt(tokenizer, ANCHOR + text)
    if ids[: len(anchor)] != anchor or len(ids) == len(anchor):
        raise InputError(
            f"This model's tokenizer merges the label word {text.strip()!r} with the text before it ({ANCHOR!r}), so "
            "it cannot be scored on its own. Give the label another word."
        )
    return tuple(ids[len(anchor) :])


def _check_distinct(words: Sequence[str], ids: Sequence[tuple[int, ...]]) -> None:
    by_ids: dict[tuple[int, ...], list[str]] = {}
    for word, label in zip(words, ids, strict=True):
        by_ids.setdefault(label, []).append(word)
    duplicates = [group for group in by_ids.values() if len(group) > 1]
    if duplicates:
        raise InputError(
            f"The model cannot tell these label words apart, they are the same tokens: {duplicates}. "
            "Give each label a word of its own."
        )


def _has_prefix(ids: Sequence[tuple[int, ...]]) -> bool:
    """Whether one label's ids begin another's. In sorted order a prefix stands directly before one it begins."""
    ordered = sorted(ids)
    return any(later[: len(earlier)] == earlier for earlier, later in pairwise(ordered))


def _batches(tokens: Iterable[int], size: int) -> Iterator[tuple[int, ...]]:
    remaining = iter(tokens)
    while batch := tuple(islice(remaining, size)):
        yield batch

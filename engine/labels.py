"""The tokens that stand for each label: whole words, scored as a trie, or single tokens, scored in one step."""

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
MOST_REQUESTS = 16  # per text with whole words; if they take more, `auto` uses distinguishing prefixes


class LabelTokens(msgspec.Struct, frozen=True, kw_only=True):
    """The token ids of each label. They are prefix-free: no label's ids are a prefix of another label's ids."""

    words: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]  # [num_labels][label_tokens], as a continuation of a prompt
    terminated: bool  # ids end with a newline, because one word's tokens are a prefix of another's

    @property
    def one_step(self) -> bool:
        """Whether every label is a single token, so that one step scores all labels."""
        return self.longest == 1

    @property
    def longest(self) -> int:
        return max(len(ids) for ids in self.ids)

    def trie_requests(self, max_tokens: int) -> list["TrieRequest"]:
        """Split the trie into requests of at most ``max_tokens``; a label's log-probability is the sum of answers."""
        children: dict[tuple[int, ...], dict[int, list[int]]] = {}
        for column, ids in enumerate(self.ids):
            for depth, token in enumerate(ids):
                children.setdefault(ids[:depth], {}).setdefault(token, []).append(column)
        return [
            TrieRequest(prefix=prefix, tokens=tokens, columns=tuple(tuple(followers[token]) for token in tokens))
            for prefix, followers in children.items()
            for tokens in _batches(followers, max_tokens)
        ]


class TrieRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the trie, or a part of one: how likely is each of ``tokens`` after the prompt and ``prefix``?"""

    prefix: tuple[int, ...]
    tokens: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]  # for each token, the indices of the labels it belongs to


def label_tokens(
    tokenizer: "PreTrainedTokenizerBase", words: Sequence[str], verbalizer: Verbalizer = "word"
) -> LabelTokens:
    """Return the token ids of label ``words`` as the continuation of a prompt that ends in a colon.

    Raises InputError for no words, an empty or padded word, words with identical tokens, and words that the tokenizer
    merges with the text before them.
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
    """Return the requests per text for words with these ``ids``, if one scores all tokens that may follow a prefix."""
    if verbalizer == "token":
        return 1
    return _num_beginnings(_distinct_prefixes(ids) if _is_shortened(ids, verbalizer) else ids)


def _is_shortened(ids: Sequence[tuple[int, ...]], verbalizer: Verbalizer) -> bool:
    return verbalizer == "prefix" or (verbalizer == "auto" and _num_beginnings(ids) > MOST_REQUESTS)


def _num_beginnings(ids: Sequence[tuple[int, ...]]) -> int:
    return len({word[:depth] for word in ids for depth in range(len(word))})


def _distinct_prefixes(ids: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the shortest prefix of each word that no other word begins with; the whole word if there is none."""
    beginnings = Counter(word[:length] for word in ids for length in range(1, len(word) + 1))
    return [next((word[:n] for n in range(1, len(word) + 1) if beginnings[word[:n]] == 1), word) for word in ids]


def _own_tokens(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[tuple[int, ...]]) -> list[int]:
    """Return a distinct token for each label: a distinguishing token of its word, else a code.

    ``ids`` are the token ids of the words. A word of one token keeps it. Any other label gets the first token of its
    word that no label uses yet, and that no other label without a token has at the same position. Tokens without a
    letter or digit are tried last. Blank tokens are never used.
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
    """Yield tokens without meaning for a class: capital letters, pairs of them, then the rest of the vocabulary.

    Special tokens, blank tokens and ``avoided`` are skipped. Raises InputError when no token is left.
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
        f"This model's tokenizer has {tokenizer.vocab_size} tokens, too few for a token for each label. Use another "
        "base model, or let adapters learn whole words (verbalizer=word)."
    )


def _continuation(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[int, ...]:
    """Return the ids of ``text`` after the anchor, because tokenizers treat the start of a text specially."""
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
            f"The model cannot distinguish these label words, because they have the same tokens: {duplicates}. Give "
            "each label a word of its own."
        )


def _has_prefix(ids: Sequence[tuple[int, ...]]) -> bool:
    """Whether one label's ids are a prefix of another's. Sorted, a prefix comes directly before a longer sequence."""
    ordered = sorted(ids)
    return any(later[: len(earlier)] == earlier for earlier, later in pairwise(ordered))


def _batches(tokens: Iterable[int], size: int) -> Iterator[tuple[int, ...]]:
    remaining = iter(tokens)
    while batch := tuple(islice(remaining, size)):
        yield batch

"""A token of its own for each label, whatever its word is."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fourshot.engine.errors import InputError
from fourshot.engine.labels import MOST_REQUESTS, label_tokens, num_requests
from fourshot.engine.tokens import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(model: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(model)


@pytest.fixture(scope="module")
def by_word() -> PreTrainedTokenizerBase:
    """One token for each word, and for each capital letter up to D: what a label is given can be read."""
    words = ["<unk>", "Label", ":", *"ABCD", "set", "alarm", "query", "play", "music", "radio", "-", "food", "cat"]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def chosen_words(tokenizer: PreTrainedTokenizerBase, *words: str) -> list[str]:
    """What stands for each of ``words``."""
    tokens = label_tokens(tokenizer, words, "token")
    assert tokens.one_step and tokens.longest == 1 and tokens.words == words
    assert len(set(tokens.ids)) == len(words), "two labels with one token"
    return [tokenizer.decode(list(ids)) for ids in tokens.ids]


def test_a_label_says_the_first_token_that_tells_its_word_apart(by_word: PreTrainedTokenizerBase) -> None:
    assert chosen_words(by_word, "play music", "set alarm") == ["play", "set"]
    assert chosen_words(by_word, "play music", "play radio", "set alarm") == ["music", "radio", "set"]
    assert chosen_words(by_word, "cat", "cat food") == ["cat", "food"]  # a word of one token keeps it
    assert chosen_words(by_word, "cat food", "food cat") == ["cat", "food"]
    assert chosen_words(by_word, "play - music", "play", "- radio") == [
        "music",
        "play",
        "radio",
    ]  # letters before a dash


def test_a_label_that_nothing_tells_apart_says_a_letter(by_word: PreTrainedTokenizerBase) -> None:
    grid = ("set alarm", "set music", "query alarm", "query music")
    assert chosen_words(by_word, *grid) == ["A", "B", "C", "D"]
    assert chosen_words(by_word, *grid, "A") == chosen_words(by_word, *grid, "A")
    assert chosen_words(by_word, "A", *grid[:3], "query music food") == ["A", "B", "C", "D", "food"]


def test_codes_are_no_part_of_a_word_and_may_run_out(by_word: PreTrainedTokenizerBase) -> None:
    grid = [f"{verb} {thing}" for verb in ("set", "query", "play") for thing in ("alarm", "music", "cat")]
    assert not set(chosen_words(by_word, *grid)) & set(" ".join(grid).split())
    with pytest.raises(InputError, match=r"too few for a token for each label.*verbalizer=word"):
        chosen_words(by_word, *grid, "set radio", "query radio", "play radio")


def test_a_prefix_ends_where_it_tells_its_word_apart(by_word: PreTrainedTokenizerBase) -> None:
    words = ["set alarm", "set music", "play radio food", "query cat"]
    full, prefix = (label_tokens(by_word, words, verbalizer) for verbalizer in ("word", "prefix"))
    assert [by_word.decode(list(ids)).strip() for ids in prefix.ids][:3] == ["set alarm", "set music", "play"]
    assert all(long[: len(short)] == short for long, short in zip(full.ids, prefix.ids, strict=True))
    assert len(set(prefix.ids)) == len(words)
    assert len(prefix.trie_requests(128)) < len(full.trie_requests(128))
    assert label_tokens(by_word, ["set", "play"], "prefix") == label_tokens(by_word, ["set", "play"])


def test_whole_words_that_take_many_requests_are_shortened(by_word: PreTrainedTokenizerBase) -> None:
    few_words = [f"{verb} {thing}" for verb in ("set", "query", "play") for thing in ("alarm", "music", "cat")]
    many_words = [f"{word} {ending}" for word in few_words for ending in ("radio - food", "food - radio")]
    for words, shortened in ((few_words, False), (many_words, True)):
        full, prefix, auto = (label_tokens(by_word, words, verbalizer) for verbalizer in ("word", "prefix", "auto"))
        assert auto == (prefix if shortened else full)
        assert (len(full.trie_requests(128)) > MOST_REQUESTS) == shortened
        counts = [num_requests(full.ids, verbalizer) for verbalizer in ("word", "prefix", "auto")]
        assert counts == [len(tokens.trie_requests(128)) for tokens in (full, prefix, auto)]
    assert num_requests(label_tokens(by_word, many_words).ids, "token") == 1


def test_words_of_one_token_say_themselves(tokenizer: PreTrainedTokenizerBase) -> None:
    words = ["positive", "negative", "neutral"]
    assert label_tokens(tokenizer, words, "token") == label_tokens(tokenizer, words)
    assert chosen_words(tokenizer, *words, "very positive")[:3] == [f" {word}" for word in words]


def test_hundreds_of_labels_have_a_token_each(tokenizer: PreTrainedTokenizerBase) -> None:
    things = ("alarm", "calendar", "light", "music", "news", "podcast", "radio", "recipe", "taxi", "weather")
    verbs = ("set", "stop", "query")
    words = [f"{verb} the {thing} {number}" for verb in verbs for thing in things for number in range(9)]
    tokens = label_tokens(tokenizer, words, "token")
    chosen_words(tokenizer, *words)
    assert [len(request.tokens) for request in tokens.trie_requests(128)] == [128, 128, 14]
    assert {request.prefix for request in tokens.trie_requests(128)} == {()}
    assert not {token for (token,) in tokens.ids} & set(tokenizer.all_special_ids)
    assert label_tokens(tokenizer, words, "token") == tokens, "the same every time"

"""Label words as token ids."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fourshot.engine.errors import InputError
from fourshot.engine.labels import label_tokens
from fourshot.engine.tokens import encode_prompt, encode_prompts, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(model: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(model)


@pytest.fixture(scope="module")
def unigram() -> PreTrainedTokenizerBase:
    """A tokenizer of the sentencepiece kind: spaces become part of words, and a text gets one put before it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace()
    texts = ["Label: positive\n", "Label: negative\n", "Label: very positive\n", "positive negative very"] * 50
    tokenizer.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", special_tokens=["<s>", "<unk>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def test_one_token_words_take_the_fast_path(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = label_tokens(tokenizer, ["positive", "negative"])
    assert tokens.one_step
    assert [len(ids) for ids in tokens.ids] == [1, 1]
    assert len(tokens.trie_requests(128)) == 1


def test_prompt_and_label_ids_are_the_ids_of_the_whole_text(tokenizer: PreTrainedTokenizerBase) -> None:
    for words in (["positive", "negative"], ["science and technology", "world news"], ["news", "news letter"]):
        tokens = label_tokens(tokenizer, words)
        for word, ids in zip(words, tokens.ids, strict=True):
            end = "\n" if tokens.terminated else ""
            prompt = "Text: some text\nLabel:"
            assert encode_prompt(tokenizer, prompt) + list(ids) == encode_prompt(tokenizer, f"{prompt} {word}{end}")


def test_a_word_that_begins_another_word_gets_an_end(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = label_tokens(tokenizer, ["news", "news letter", "other"])
    assert tokens.terminated
    assert not tokens.one_step
    newline = encode_prompt(tokenizer, "Label: news\n")[-1]
    assert all(ids[-1] == newline for ids in tokens.ids)
    assert not label_tokens(tokenizer, ["news", "other"]).terminated


def test_the_questions_cover_every_token_of_every_label_once(tokenizer: PreTrainedTokenizerBase) -> None:
    words = ["technology", "technology news", "science news", "very technology"]
    tokens = label_tokens(tokenizer, words)
    for max_tokens in (1, 2, 128):
        rebuilt: dict[int, set[tuple[int, ...]]] = {column: set() for column in range(len(words))}
        for request in tokens.trie_requests(max_tokens):
            assert 1 <= len(request.tokens) <= max_tokens
            for token, columns in zip(request.tokens, request.columns, strict=True):
                for column in columns:
                    rebuilt[column].add((*request.prefix, token))
        for column, ids in enumerate(tokens.ids):
            assert rebuilt[column] == {ids[:length] for length in range(1, len(ids) + 1)}


def test_words_for_a_sentencepiece_tokenizer(unigram: PreTrainedTokenizerBase) -> None:
    tokens = label_tokens(unigram, ["positive", "negative", "very positive"])
    prompt = encode_prompt(unigram, "Label:")
    for word, ids in zip(tokens.words, tokens.ids, strict=True):
        assert prompt + list(ids) == encode_prompt(unigram, f"Label: {word}")


def test_where_a_space_is_a_token_each_label_has_one_that_says_more(unigram: PreTrainedTokenizerBase) -> None:
    words = ["positive", "very positive", "negative", "very negative"]
    tokens = label_tokens(unigram, words, "token")
    decoded = [unigram.decode(list(ids)).strip() for ids in tokens.ids]
    assert tokens.one_step and len(set(tokens.ids)) == 4 and all(decoded), decoded


def test_words_that_the_model_cannot_tell_apart_are_named(
    tokenizer: PreTrainedTokenizerBase, unigram: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(InputError, match=r"distinguish.*'positive', 'positive'"):
        label_tokens(tokenizer, ["positive", "negative", "positive"])
    with pytest.raises(InputError, match=r"distinguish.*'日', '本'"):
        label_tokens(unigram, ["日", "本", "positive"])


@pytest.mark.parametrize("words", [[], [""], [" positive"], ["positive\n"]])
def test_words_that_are_no_words_are_refused(tokenizer: PreTrainedTokenizerBase, words: list[str]) -> None:
    with pytest.raises(InputError):
        label_tokens(tokenizer, words)


def test_a_tokenizer_that_merges_words_across_the_colon_is_noticed() -> None:
    vocabulary = {"<unk>": 0, "Label:": 1, "Label: yes": 2}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    with pytest.raises(InputError, match="merges the label word 'yes'"):
        label_tokens(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>"), ["yes"])


def test_a_prompt_is_never_closed(tokenizer: PreTrainedTokenizerBase) -> None:
    """Some tokenizers put an end token after every text; a model would not continue that."""
    from tokenizers import processors

    inner = Tokenizer(models.WordLevel({"</s>": 0, "good": 1, "<unk>": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    closing = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    assert encode_prompts(closing, ["good", "good good"]) == [[1], [1, 1]]
    assert encode_prompts(tokenizer, ["good"])[0][-1] != tokenizer.eos_token_id

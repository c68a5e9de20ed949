"""Texts become the same tokens wherever they are read, whatever kind of tokenizer the base has."""

from pathlib import Path

import pytest

from fourshot.engine import tokens
from fourshot.engine.checkpoints.embedded import embedded_model
from fourshot.engine.context import longest_context, within_context
from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import InputError
from fourshot.engine.labels import label_tokens
from fourshot.engine.tokens import encode_prompt, encode_prompts, load_tokenizer, word_biases
from tests.engine.prompts import IN_CONTEXT, LABELS, LONG_LABELS, ZERO_SHOT
from tests.engine.tiny_models import TOKENIZERS, tiny_checkpoint, tokenizer_of

BEGINS = {"byte-level BPE": False, "Llama 2": True, "Gemma": True, "unigram": False}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_prompt_begins_as_the_model_wants_and_is_never_closed(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    for ids in encode_prompts(tokenizer, [*ZERO_SHOT, *IN_CONTEXT]):
        begins = tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
        assert begins == BEGINS[kind]
        assert ids.count(tokenizer.bos_token_id) == BEGINS[kind]
        assert tokenizer.eos_token_id not in ids


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_label_is_what_the_prompt_goes_on_with(kind: str) -> None:
    """What is trained is the prompt's tokens and then the label's; a text that says both has the same."""
    tokenizer = tokenizer_of(kind)
    labels = label_tokens(tokenizer, LONG_LABELS if kind != "unigram" else LABELS)
    for prompt in (ZERO_SHOT[0], IN_CONTEXT[-1]):
        prompt_ids = encode_prompt(tokenizer, prompt)
        for word, ids in zip(labels.words, labels.ids, strict=True):
            ending = word + ("\n" if labels.terminated else "")
            assert encode_prompt(tokenizer, f"{prompt} {ending}") == [*prompt_ids, *ids]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_text_alone_and_among_others_is_the_same_tokens(kind: str, tmp_path: Path) -> None:
    """And so it is after the tokenizer was saved and loaded, as trainer, engines and server each do."""
    tokenizer = tokenizer_of(kind)
    together = encode_prompts(tokenizer, IN_CONTEXT)
    assert together == [encode_prompt(tokenizer, text) for text in IN_CONTEXT]
    tokenizer.save_pretrained(tmp_path)
    assert encode_prompts(load_tokenizer(tmp_path), IN_CONTEXT) == together


def test_a_begin_token_that_stands_in_the_text_is_not_doubled() -> None:
    """Chat templates write it."""
    tokenizer = tokenizer_of("Gemma")
    assert encode_prompt(tokenizer, "<s>" + ZERO_SHOT[0]) == encode_prompt(tokenizer, ZERO_SHOT[0])


def test_an_empty_prompt_is_refused_where_nothing_begins_it() -> None:
    assert encode_prompt(tokenizer_of("Gemma"), "") == [1]
    with pytest.raises(InputError, match="no tokens"):
        encode_prompt(tokenizer_of("unigram"), "")


def test_a_prompt_is_no_longer_than_the_model_has_positions_for(tmp_path: Path) -> None:
    folder = tiny_checkpoint("gpt2", tmp_path / "gpt2", max_position_embeddings=128)
    assert longest_context(folder) == 128
    settings = EngineSettings(model=folder)
    assert within_context(settings).max_model_len == 128
    shorter = EngineSettings(model=folder, max_model_len=64)
    assert within_context(shorter) == shorter
    assert within_context(EngineSettings(model=str(tmp_path))) == EngineSettings(model=str(tmp_path))


def test_of_more_biases_than_a_gpu_takes_the_strongest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(embedded_model())
    words = [("good", -0.5), ("bad", -2.0), ("fine", -1.0)]
    assert list(word_biases(tokenizer, words).values()) == [-0.5, -2.0, -1.0]
    monkeypatch.setattr(tokens, "MOST_BIASES", 2)
    assert sorted(word_biases(tokenizer, words).values()) == [-2.0, -1.0]

"""Filler has what prompts begin with end on a block's edge, and changes no token of theirs, whatever the tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest

from fourshot.engine.alignment import BLOCK_TOKENS, SENTENCES, PromptFiller, filler_for
from fourshot.engine.tokens import encode_prompts, load_tokenizer
from tests.engine.tiny_models import TOKENIZERS, tokenizer_of

TEXTS = ("a", "The", "1", "(", "é")
UNSEEN = ("warm soup", "Snow, 3 cm", '"no"', "中")


def prompts(instruction: str, texts: tuple[str, ...] = TEXTS) -> tuple[str, ...]:
    return tuple(f"{instruction}\n\nText: {text}\nLabel:" for text in texts)


def base(folder: Path, kind: str = "byte-level BPE", **config: Any) -> str:
    tokenizer_of(kind).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_text_begins_a_block_and_the_rest_keeps_its_ids(kind: str, tmp_path: Path) -> None:
    model = base(tmp_path, kind)
    tokenizer = load_tokenizer(model)
    for words in range(1, 40):  # until its end is far enough from an edge in these tokens
        instruction = "Say what the weather is:" + words * " warm"
        if filler := filler_for(model, prompts(instruction), text_tokens=100, most_tokens=2048):
            break
    assert filler
    plain = encode_prompts(tokenizer, prompts(instruction, UNSEEN))
    filled = encode_prompts(tokenizer, [filler.text + prompt for prompt in prompts(instruction, UNSEEN)])
    begin = int(plain[0][0] == tokenizer.bos_token_id)
    number = len(filled[0]) - len(plain[0])
    for before, after in zip(plain, filled, strict=True):
        inserted = filled[0][begin : begin + number]
        assert after == [*before[:begin], *inserted, *before[begin:]], "a begin token stays first"
    assert filler.prefix_tokens % BLOCK_TOKENS == 0
    shared = {tuple(ids[: filler.prefix_tokens]) for ids in filled}
    assert len(shared) == 1 and len({ids[filler.prefix_tokens] for ids in filled}) > 1


def test_a_prefix_that_fills_its_blocks_or_nearly_nothing_gets_no_filler(tmp_path: Path) -> None:
    model = base(tmp_path)
    by_length = {}
    for length in range(1, 80):
        filler = filler_for(model, tuple("~" * length + text for text in TEXTS), text_tokens=10, most_tokens=2048)
        by_length[length] = filler.prefix_tokens - length if filler else 0
    assert by_length[8] == by_length[40] == 24 and by_length[31] == by_length[63] == 1
    assert not any(by_length[length] for length in (1, 7, 32, 39, 64, 71))


@pytest.mark.parametrize(
    ("limit", "has_filler"),
    [
        ({"max_position_embeddings": 164}, True),
        ({"max_position_embeddings": 163}, False),
        ({"max_position_embeddings": 512, "sliding_window": 163}, False),
        ({"max_position_embeddings": 512, "sliding_window": 163, "use_sliding_window": False}, True),
        ({"text_config": {"n_positions": 163}}, False),
    ],
)
def test_no_filler_where_the_longest_text_might_not_fit(
    limit: dict[str, Any], has_filler: bool, tmp_path: Path
) -> None:
    long_prompts = tuple("~" * 50 + text for text in TEXTS)  # 64 with filler
    model = base(tmp_path, **limit)
    assert (filler_for(model, long_prompts, text_tokens=100, most_tokens=2048) is not None) == has_filler
    assert filler_for(model, long_prompts, text_tokens=100, most_tokens=163) is None


def test_sentences_fill_where_no_chat_template_follows(tmp_path: Path) -> None:
    model = base(tmp_path)
    for words in range(1, 40):  # until a line has the number of tokens that is missing
        task_prompts = prompts("Say what the weather is:" + words * " warm")
        line, token = (filler_for(model, task_prompts, 9, 2048, sentences=sentences) for sentences in (True, False))
        if line and line.text.endswith("\n"):
            break
    assert line and token and line.prefix_tokens == token.prefix_tokens
    assert line.number == 1 and {f"{part}." for part in line.text.strip().rstrip(".").split(". ")} <= {*SENTENCES}
    assert token.number > 1 and token.text == token.token * token.number


def test_a_token_that_changes_what_follows_is_not_taken(tmp_path: Path) -> None:
    task_prompts = prompts("Say what the weather is in this text: warm or cold.")
    model = base(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    # Only a text's very first word has a space put before it: it has none after a special token.
    content["normalizer"] = None
    content["pre_tokenizer"] = {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False
    }  # fmt: skip
    content["model"]["vocab"]["▁"] = len(content["model"]["vocab"])
    file.write_text(json.dumps(content))
    assert filler_for(model, task_prompts, text_tokens=100, most_tokens=2048, sentences=False) is None


def test_a_begin_token_fills_only_where_it_is_the_end_token_too(tmp_path: Path) -> None:
    task_prompts = prompts("Say what the weather is in this text: warm or cold." + " warm" * 12)
    model = base(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    fillers = {}
    for name, tokens in {
        "both": {"eos_token": "<|end|>", "bos_token": "<|end|>"},
        "padding": {"pad_token": {"content": "<|end|>"}},
        "begin": {"pad_token": "<|end|>", "bos_token": "<|end|>"},
    }.items():
        config.write_text(json.dumps(tokens))
        filler_for.cache_clear()
        fillers[name] = filler_for(model, task_prompts, text_tokens=100, most_tokens=2048, sentences=False)
    assert fillers["both"] == fillers["padding"] != fillers["begin"] is None


def test_a_base_without_special_tokens_or_without_files_has_no_filler(tmp_path: Path) -> None:
    task_prompts = prompts("Say what the weather is in this text: warm or cold.")
    model = base(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    for name in (model, str(tmp_path / "nowhere"), "fake"):
        assert filler_for(name, task_prompts, text_tokens=100, most_tokens=2048, sentences=False) is None


def test_its_text_is_the_token_repeated() -> None:
    assert PromptFiller(token="</s>", number=3, prefix_tokens=32).text == "</s></s></s>"

"""Filler has what prompts begin with end on a block's edge, and changes no token of theirs, whatever the tokenizer."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from fourshot.engine import alignment
from fourshot.engine.alignment import BLOCK_TOKENS, SENTENCES, PromptFiller, filler_for
from fourshot.engine.tokens import encode_prompts, load_tokenizer
from tests.engine.tiny_models import TOKENIZERS, tokenizer_of

LINES = [" ".join(part) + "\n" for count in range(1, 1 + len(SENTENCES)) for part in combinations(SENTENCES, count)]
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
    if plain[0][0] == tokenizer.bos_token_id:
        assert all(ids[0] == plain[0][0] for ids in filled), "a begin token stays first"
    first = int(filled[0][0] == plain[0][0])  # also the space that some put before a text's first word
    number = len(filled[0]) - len(plain[0])
    for before, after in zip(plain, filled, strict=True):
        assert after == [*before[:first], *filled[0][first : first + number], *before[first:]]
    assert filler.prefix_tokens % BLOCK_TOKENS == 0
    shared = {tuple(ids[: filler.prefix_tokens]) for ids in filled}
    assert len(shared) == 1 and len({ids[filler.prefix_tokens] for ids in filled}) > 1


def test_a_prefix_that_fills_its_blocks_or_nearly_nothing_gets_no_filler(tmp_path: Path) -> None:
    model = base(tmp_path)
    lines = {len(encode_prompts(load_tokenizer(model), [line])[0]) for line in LINES}
    by_length = {}
    for length in range(1, 80):
        filler = filler_for(model, tuple("~" * length + text for text in TEXTS), text_tokens=10, most_tokens=2048)
        by_length[length] = filler.prefix_tokens - length if filler else 0
    for length, number in by_length.items():
        missing = -length % BLOCK_TOKENS
        wanted = next((tokens for tokens in (missing, missing + BLOCK_TOKENS) if tokens in lines), 0)
        assert number == (wanted if length % BLOCK_TOKENS >= 8 else 0), "no more than a block above what is missing"
    assert max(by_length.values()) > BLOCK_TOKENS > min(filter(None, by_length.values()))


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


def test_whole_sentences_fill(tmp_path: Path) -> None:
    model = base(tmp_path)
    for words in range(1, 40):  # until a line has the number of tokens that is missing
        if line := filler_for(model, prompts("Say what the weather is:" + words * " warm"), 9, 2048):
            break
    assert line and line.number == 1 and line.text in LINES


def test_whole_prompts_are_read_with_the_few_lines_that_may_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server asks for filler when an adapter arrives: seconds for prompts with many shots are too long."""
    model = base(tmp_path)
    encode, read = alignment._encoder(model), list[str]()

    def noted(text: str) -> list[int]:
        read.append(text)
        return encode(text)

    monkeypatch.setattr(alignment, "_encoder", lambda _: noted)
    for words in range(40):
        filler_for(model, prompts("Say what the weather is:" + words * " warm"), 9, 2048)
    assert sum("weather" in text for text in read) < 40 * 40
    assert sum("weather" not in text for text in read) == 2 * len(LINES), "lines alone are read once"


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_first_line_that_does_is_taken(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its length is alone."""
    model = base(tmp_path, kind)
    tasks = [prompts("Label: the weather:" + words * " warm", TEXTS[:2]) for words in range(1, 40)]
    fillers = [filler_for(model, task, 9, 2048) for task in tasks]
    monkeypatch.setattr(alignment, "_lines_of", lambda *_: alignment._lines())
    filler_for.cache_clear()
    assert fillers == [filler_for(model, task, 9, 2048) for task in tasks]


@pytest.mark.parametrize(("kind", "end"), [("Llama 2", " "), ("byte-level BPE", "\n")])
def test_the_line_ends_where_the_prompt_s_first_word_stays_what_it_is(kind: str, end: str, tmp_path: Path) -> None:
    model = base(tmp_path, kind)
    ends = set()
    for words in range(1, 40):
        if filler := filler_for(model, prompts("Label: the weather:" + words * " warm"), 9, 2048):
            ends.add(filler.text[-1])
    assert ends == {end}


def test_a_line_that_changes_what_follows_is_not_taken(tmp_path: Path) -> None:
    task_prompts = prompts("Say what the weather is in this text: warm or cold.")
    model = base(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["pre_tokenizer"]["use_regex"] = False
    for before in "ĊĠ":  # the end of a line, and a space: each is one token with an S behind it
        content["model"]["vocab"][f"{before}S"] = len(content["model"]["vocab"])
        content["model"]["merges"].insert(0, [before, "S"])
    file.write_text(json.dumps(content))
    assert filler_for(model, task_prompts, text_tokens=100, most_tokens=2048) is None


def test_a_tokenizer_that_cuts_or_pads_by_its_file_is_asked_for_whole_prompts(tmp_path: Path) -> None:
    """As engines ask it: those of fine-tuned models often keep what their training cut at."""
    long_prompts = tuple("~" * 50 + text for text in TEXTS)
    model = base(tmp_path)
    filler = filler_for(model, long_prompts, text_tokens=100, most_tokens=2048)
    for change in ("truncation", "padding"):
        tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        tokenizer.enable_truncation(40) if change == "truncation" else tokenizer.enable_padding(length=90)
        (tmp_path / change).mkdir()
        other = base(tmp_path / change)
        tokenizer.save(f"{other}/tokenizer.json")
        assert filler_for(other, long_prompts, text_tokens=100, most_tokens=2048) == filler
    assert filler


def test_a_base_without_files_has_no_filler(tmp_path: Path) -> None:
    task_prompts = prompts("Say what the weather is in this text: warm or cold.")
    for name in (str(tmp_path / "nowhere"), "fake"):
        assert filler_for(name, task_prompts, text_tokens=100, most_tokens=2048) is None


def test_its_text_is_the_token_repeated() -> None:
    assert PromptFiller(token="</s>", number=3, prefix_tokens=32).text == "</s></s></s>"

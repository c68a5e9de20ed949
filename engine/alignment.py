"""Filler in front of prompts, so that their common beginning fills whole blocks of the prefix cache.

vLLM caches only whole blocks, and a task's instruction is shorter than a block. Without filler, it is recomputed for
every text. The filler is a line of whole sentences that fit every classification task, because a repeated special token
costs accuracy (docs/engine.md has the measurement). The text after the filler must keep the token ids that it has
without filler. Prompts stay plain text: the same in training, evaluation and serving, in any process. If a tokenizer
does not allow this, no filler is used.

Importing this module loads neither torch nor transformers.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations, repeat, takewhile
from pathlib import Path

import msgspec

from fourshot.engine.context import attention_span
from fourshot.engine.fake_engine import is_fake

BLOCK_TOKENS = 32  # of the cache on the CPU (`engine.vllm_start`); a multiple of a GPU's 16
LEAST_GAIN_TOKENS = 8  # filler is not used if it makes fewer additional tokens cacheable

MAX_EXTRA_TOKENS = 3  # tokens that a line may have alone but not in front of a prompt: begin, end, a space

FILLER_KIND = "sentences"  # recorded in run folders; to be changed with the filler, because prompts then differ
# A selection of these, in this order, forms a line that fits before any instruction and adds no information. None of
# them mentions labels: two that did cost Qwen2.5-Coder-0.5B three points on SST-2 (docs/engine.md).
SENTENCES = (
    "Here is a task.",
    "You are an annotator.",
    "Read it carefully.",
    "Then answer.",
    "Go.",
    "It is not hard.",
    "Take the time you need.",
)

Encode = Callable[[str], list[int]]


class PromptFiller(msgspec.Struct, frozen=True, kw_only=True):
    """The filler in front of every prompt of a task."""

    token: str  # a whole line; on cards of earlier versions, the text of a special token
    number: int  # how often it is repeated, at least once
    prefix_tokens: int  # all tokens before the text, including filler: whole blocks
    block_tokens: int = BLOCK_TOKENS

    @property
    def text(self) -> str:
        return self.token * self.number


@lru_cache(maxsize=1024)
def filler_for(model: str, prompts: tuple[str, ...], text_tokens: int, most_tokens: int) -> PromptFiller | None:
    """Return the filler for prompts that differ only in their texts, for the checkpoint in the folder ``model``.

    ``prompts`` are those of one task, with texts that begin differently. ``text_tokens`` is the longest text with its
    answer. With the prefix, it must fit into ``most_tokens``, the model's positions and its sliding window. Returns
    None if it would not fit, if fewer than `LEAST_GAIN_TOKENS` would be gained, or if every line changes the token ids
    of the rest of a prompt. A fake model and a folder without ``config.json`` give None too.
    """
    if is_fake(model) or not (Path(model) / "config.json").is_file():
        return None
    encode = _encoder(model)
    plain = [encode(prompt) for prompt in prompts]
    prefix = min(_shared_tokens(plain[0], ids) for ids in plain[1:])
    gain = prefix % BLOCK_TOKENS
    if gain < LEAST_GAIN_TOKENS:
        return None
    room = min(most_tokens, attention_span(model) or most_tokens) - prefix - text_tokens
    for number in (BLOCK_TOKENS - gain, 2 * BLOCK_TOKENS - gain):  # one more block if no line is short enough
        for line in _lines_of(model, number) if number <= room else ():
            filled = (encode(line + prompt) for prompt in prompts)
            if all(map(_is_inserted, filled, plain, repeat(number))):
                return PromptFiller(token=line, number=1, prefix_tokens=prefix + number)
    return None


def _lines_of(model: str, number: int) -> Iterator[str]:
    """Yield the lines that may have ``number`` tokens in front of a prompt, without encoding long prompts with each."""
    for line, tokens in _line_tokens(model).items():
        if number - 1 <= tokens <= number + MAX_EXTRA_TOKENS:
            yield line


@lru_cache(maxsize=8)
def _line_tokens(model: str) -> dict[str, int]:
    """Map each line to its number of tokens when encoded alone, in the order of `_lines`."""
    encode = _encoder(model)
    return {line: len(encode(line)) for line in _lines()}


def _lines() -> Iterator[str]:
    """Yield lines of whole `SENTENCES`, few first; later ones end in a space, for tokenizers that prepend one."""
    for end in ("\n", " "):
        for count in range(1, len(SENTENCES) + 1):
            yield from (" ".join(chosen) + end for chosen in combinations(SENTENCES, count))


def _shared_tokens(ids: Sequence[int], other_ids: Sequence[int]) -> int:
    """Return the length of the common prefix."""
    common = takewhile(lambda pair: pair[0] == pair[1], zip(ids, other_ids, strict=False))
    return sum(1 for _ in common)


def _is_inserted(filled: Sequence[int], plain: Sequence[int], number: int) -> bool:
    """Whether ``filled`` is ``plain`` with ``number`` tokens inserted at the start, or after a begin token."""
    at = _shared_tokens(filled[:1], plain[:1])
    return [*filled[:at], *filled[at + number :]] == [*plain]


@lru_cache(maxsize=8)
def _encoder(model: str) -> Encode:
    """Return a function like `engine.tokens.encode_prompt` that loads faster: from ``tokenizer.json`` if it exists."""
    file = Path(model) / "tokenizer.json"
    if not file.is_file():
        from fourshot.engine.tokens import encode_prompt, load_tokenizer

        slow = load_tokenizer(model)
        return lambda text: encode_prompt(slow, text)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()  # the file may contain the truncation length of a training
    tokenizer.no_padding()
    return lambda text: list(tokenizer.encode(text).ids)

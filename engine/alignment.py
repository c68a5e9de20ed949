"""Filler in front of prompts, so that what all of them begin with fills whole blocks of the prefix cache.

vLLM caches whole blocks and nothing less, and a task's instruction is shorter than a block: without filler it is
computed for every text. The filler is a line of whole sentences that fit every classification task: a special token
repeated costs accuracy (docs/engine.md has the measurement). What follows the filler must have the ids that it has
alone, and prompts stay plain text: the same in training, measuring and serving, in any process. Where a tokenizer does
otherwise, there is no filler.

Importing this module loads neither torch nor transformers.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations, repeat, takewhile
from pathlib import Path

import msgspec

from fourshot.engine.context import readable_tokens
from fourshot.engine.fake_engine import is_fake

BLOCK_TOKENS = 32  # of the cache on the CPU (`engine.vllm_start`); a multiple of a GPU's 16
LEAST_GAIN_TOKENS = 8  # fewer that are cached beyond whole blocks are not worth a filler

MOST_BESIDE = 3  # tokens of a line alone that it has not in front of a prompt: begin, end, a space

FILLER_KIND = "sentences"  # what a folder notes: another word for other filler, because prompts are then others
# Some of them, in this order, are a line that may stand before any instruction: as long as is needed, and no news. None
# speaks of labels: two that did cost Qwen2.5-Coder-0.5B three points on SST-2 (docs/engine.md).
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
    """What stands in front of every prompt of a task."""

    token: str  # a whole line; on cards of earlier versions the text of a special token
    number: int  # how often it stands there, at least once
    prefix_tokens: int  # all that comes before the text, filler included: whole blocks
    block_tokens: int = BLOCK_TOKENS

    @property
    def text(self) -> str:
        return self.token * self.number


@lru_cache(maxsize=1024)
def filler_for(model: str, prompts: tuple[str, ...], text_tokens: int, most_tokens: int) -> PromptFiller | None:
    """What to put before prompts that differ in their texts alone, for the checkpoint in the folder ``model``.

    ``prompts``: one task's, of texts that begin in different ways. ``text_tokens``: what a text and its answer may
    need; with the prefix they must stay within ``most_tokens``, the model's positions and its sliding window. None
    where they would not stay there, where next to nothing would be gained, or where no line leaves the rest of a
    prompt as it is.
    """
    if is_fake(model) or not (Path(model) / "config.json").is_file():
        return None
    encode = _encoder(model)
    plain = [encode(prompt) for prompt in prompts]
    prefix = min(_shared_tokens(plain[0], ids) for ids in plain[1:])
    gain = prefix % BLOCK_TOKENS
    if gain < LEAST_GAIN_TOKENS:
        return None
    room = min(most_tokens, readable_tokens(model) or most_tokens) - prefix - text_tokens
    for number in (BLOCK_TOKENS - gain, 2 * BLOCK_TOKENS - gain):  # a block more where no line is as short
        for line in _lines_of(model, number) if number <= room else ():
            filled = (encode(line + prompt) for prompt in prompts)
            if all(map(_is_inserted, filled, plain, repeat(number))):
                return PromptFiller(token=line, number=1, prefix_tokens=prefix + number)
    return None


def _lines_of(model: str, number: int) -> Iterator[str]:
    """Those that may have ``number`` tokens in front of a prompt. Each is read before whole prompts, of shots too."""
    for line, tokens in _line_tokens(model).items():
        if number - 1 <= tokens <= number + MOST_BESIDE:
            yield line


@lru_cache(maxsize=8)
def _line_tokens(model: str) -> dict[str, int]:
    """Of each line alone, in their order."""
    encode = _encoder(model)
    return {line: len(encode(line)) for line in _lines()}


def _lines() -> Iterator[str]:
    """Whole `SENTENCES` in one line, few first; without its end for tokenizers that put a space before a prompt."""
    for end in ("\n", " "):
        for count in range(1, len(SENTENCES) + 1):
            yield from (" ".join(chosen) + end for chosen in combinations(SENTENCES, count))


def _shared_tokens(ids: Sequence[int], other_ids: Sequence[int]) -> int:
    """How many tokens both begin with."""
    common = takewhile(lambda pair: pair[0] == pair[1], zip(ids, other_ids, strict=False))
    return sum(1 for _ in common)


def _is_inserted(filled: Sequence[int], plain: Sequence[int], number: int) -> bool:
    """Whether ``filled`` is ``plain`` with so many tokens in front, or after a begin token."""
    at = _shared_tokens(filled[:1], plain[:1])
    return [*filled[:at], *filled[at + number :]] == [*plain]


@lru_cache(maxsize=8)
def _encoder(model: str) -> Encode:
    """Text to ids as `engine.tokens.encode_prompts` does, from the tokenizer's own file where there is one: at once."""
    file = Path(model) / "tokenizer.json"
    if not file.is_file():
        from fourshot.engine.tokens import encode_prompt, load_tokenizer

        slow = load_tokenizer(model)
        return lambda text: encode_prompt(slow, text)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()  # it may have what a training cut at
    tokenizer.no_padding()
    return lambda text: list(tokenizer.encode(text).ids)

"""Filler in front of prompts, so that what all of them begin with fills whole blocks of the prefix cache.

vLLM caches whole blocks and nothing less, and a task's instruction is shorter than a block: without filler it is
computed for every text. The filler is a line of sentences that fit every classification task; where none has the right
number of tokens, a special token's text, repeated. What follows the filler must have the ids that it has alone,
and prompts stay plain text: the same in training, measuring and serving, in any process. Where a tokenizer does
otherwise, there is no filler. docs/engine.md has the measurement of both kinds.

Importing this module loads neither torch nor transformers.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations, repeat, takewhile
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.context import readable_tokens
from fourshot.engine.fake_engine import is_fake

BLOCK_TOKENS = 32  # of the cache on the CPU (`engine.vllm_start`); a multiple of a GPU's 16
LEAST_GAIN_TOKENS = 8  # fewer that are cached beyond whole blocks are not worth a filler
ROLES, BEGIN = ("eos_token", "pad_token"), "bos_token"  # which special token fills: the first that can

# Some of them, in this order, are a line that may stand before any instruction: as long as is needed, and no news.
SENTENCES = (
    "Here is a task.",
    "You are an annotator.",
    "Read it carefully.",
    "Each of the texts has one label.",
    "Choose the label that fits the text best.",
    "Then answer.",
    "Go.",
)

Encode = Callable[[str], list[int]]


class PromptFiller(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in front of every prompt of a task."""

    token: str  # text of a special token, or a whole line
    number: int  # how often it stands there, at least once
    prefix_tokens: int  # all that comes before the text, filler included: whole blocks
    block_tokens: int = BLOCK_TOKENS

    @property
    def text(self) -> str:
        return self.token * self.number


@lru_cache(maxsize=1024)
def filler_for(
    model: str, prompts: tuple[str, ...], text_tokens: int, most_tokens: int, *, sentences: bool = True
) -> PromptFiller | None:
    """What to put before prompts that differ in their texts alone, for the checkpoint in the folder ``model``.

    ``prompts``: one task's, of texts that begin in different ways. ``text_tokens``: what a text and its answer may
    need; with the prefix they must stay within ``most_tokens``, the model's positions and its sliding window.
    ``sentences``: a line may stand in front, as it may not before a chat template. None where they would not stay
    there, where next to nothing would be gained, or where nothing leaves the rest of a prompt as it is.
    """
    if is_fake(model) or not (Path(model) / "config.json").is_file():
        return None
    encode = _encoder(model)
    plain = [encode(prompt) for prompt in prompts]
    prefix = min(_shared_tokens(plain[0], ids) for ids in plain[1:])
    gain = prefix % BLOCK_TOKENS
    number = BLOCK_TOKENS - gain
    fits = prefix + number + text_tokens <= min(most_tokens, readable_tokens(model) or most_tokens)
    if gain < LEAST_GAIN_TOKENS or not fits:
        return None
    lines = (line for line in _lines(sentences) if len(encode(line + prompts[0])) == len(plain[0]) + number)
    for token, times in (*((line, 1) for line in lines), *((token, number) for token in _special_tokens(model))):
        filler = PromptFiller(token=token, number=times, prefix_tokens=prefix + number)
        filled = [encode(filler.text + prompt) for prompt in prompts]
        if all(map(_is_inserted, filled, plain, repeat(number))):
            return filler
    return None


def _lines(sentences: bool) -> Iterator[str]:
    """Lines of whole `SENTENCES`, those of few sentences first; none where there are to be no ``sentences``."""
    for count in range(1, len(SENTENCES) + 1 if sentences else 1):
        yield from (" ".join(chosen) + "\n" for chosen in combinations(SENTENCES, count))


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
    return lambda text: list(tokenizer.encode(text).ids)


def _special_tokens(model: str) -> list[str]:
    """Those that may fill, the likeliest first."""
    by_role: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            config: dict[str, Any] = json.loads((Path(model) / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        tokens = {role: config.get(role) for role in (*ROLES, BEGIN)}
        by_role |= {
            role: token["content"] if isinstance(token, dict) else token for role, token in tokens.items() if token
        }
    # Two begin tokens in front are read as one (`engine.tokens`), but where it is the end token too.
    begin = by_role.pop(BEGIN, None)
    if begin != by_role.get(ROLES[0]):
        by_role = {role: token for role, token in by_role.items() if token != begin}
    return list(dict.fromkeys(by_role[role] for role in ROLES if role in by_role))

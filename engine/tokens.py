"""Tokenization, shared by both engines and the trainer, so that training and scoring use the same token ids."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fourshot.engine.checkpoints.loading import load_or_explain
from fourshot.engine.errors import InputError
from fourshot.engine.fake_engine import is_fake

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_BIASES = 1024  # per request on a GPU (vLLM's MAX_NUM_LOGIT_BIAS_TOKENS); more would end the engine
ANCHOR = "Label:"  # precedes a label in every prompt of the paper (Patwa et al. 2024, figures 2 and 3)


def load_tokenizer(model: str | Path) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a checkpoint folder. Loads transformers, but no model.

    Raises InputError for a fake model, and if the tokenizer cannot be loaded.
    """
    if is_fake(str(model)):
        raise InputError(
            f"The fake base model ({model}) has no tokenizer and no weights: it generates and annotates texts, and "
            "cannot be trained, served or evaluated. Name another with --model."
        )
    from transformers import AutoTokenizer

    return load_or_explain(
        lambda: AutoTokenizer.from_pretrained(str(model), trust_remote_code=False), "tokenizer", model
    )


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Return the token ids of a prompt for the model to continue. See `encode_prompts`."""
    return encode_prompts(tokenizer, [text])[0]


def encode_prompts(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of prompts to be continued: with the tokenizer's begin token if it adds one, no end token.

    Raises InputError for a prompt without a single token.
    """
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=True)["input_ids"]
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    prompts = []
    for index, ids in enumerate(encoded):
        # Some tokenizers end every text with the end token. The model would then begin another text.
        if (
            end is not None
            and end != begin
            and ids
            and ids[-1] == end
            and not texts[index].endswith(tokenizer.eos_token)
        ):
            ids = ids[:-1]
        if begin is not None and begin != end and ids[:2] == [begin, begin]:
            ids = ids[1:]  # the text already contains a begin token, for example from a chat template
        if not ids:
            raise InputError(
                f"Prompt {index} has no tokens: {texts[index]!r}. A model cannot continue an empty prompt. Add text."
            )
        prompts.append(ids)
    return prompts


def check_lengths(prompts: Sequence[Sequence[int]], extra_tokens: int, max_model_len: int) -> None:
    """Raise InputError naming the longest prompt if any prompt and ``extra_tokens`` exceed ``max_model_len`` tokens."""
    too_long = [index for index, ids in enumerate(prompts) if len(ids) + extra_tokens > max_model_len]
    if not too_long:
        return
    worst = max(too_long, key=lambda index: len(prompts[index]))
    raise InputError(
        f"{len(too_long)} of {len(prompts)} prompts are too long; the longest is prompt {worst} with "
        f"{len(prompts[worst])} tokens, plus {extra_tokens} for the answer. At most {max_model_len} tokens are "
        "allowed in all (max_model_len). Shorten the texts, show fewer shots, or raise max_model_len up to the "
        "model's limit."
    )


def word_biases(tokenizer: "PreTrainedTokenizerBase", biases: Iterable[tuple[str, float]]) -> dict[int, float]:
    """Map token ids to nats, for words that are a single token after another word: the strongest `MOST_BIASES`."""
    words = dict(biases)
    if not words:
        return {}
    anchor, *encoded = encode_prompts(tokenizer, [ANCHOR, *(f"{ANCHOR} {word}" for word in words)])
    by_token: dict[int, float] = {}
    for ids, nats in zip(encoded, words.values(), strict=True):
        if len(ids) == len(anchor) + 1 and ids[:-1] == anchor:
            by_token[ids[-1]] = nats
    if len(by_token) <= MOST_BIASES:
        return by_token
    return dict(sorted(by_token.items(), key=lambda bias: -abs(bias[1]))[:MOST_BIASES])

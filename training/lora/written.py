"""Targets of text generation: the tokens that continue a prompt, up to and including the model's end token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET

from fourshot.engine.errors import InputError
from fourshot.engine.tokens import encode_prompts
from fourshot.training.lora.examples import TrainingExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_written(
    tokenizer: "PreTrainedTokenizerBase", examples: Sequence[TrainingExample], prompts: Sequence[Sequence[int]]
) -> list[tuple[int, ...]]:
    """Return the token ids of each example's continuation; the last one is the end token.

    ``prompts`` are the token ids of the examples' prompts. Raises InputError if the model has no end token, because it
    would never learn to stop.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise InputError(
            "The base model's tokenizer has no end token (eos_token), so no generated text would end. Name another "
            "base with --model."
        )
    texts = [example.written or "" for example in examples]
    encoded = encode_prompts(tokenizer, [example.prompt + text for example, text in zip(examples, texts, strict=True)])
    alone = tokenizer(texts, add_special_tokens=False)["input_ids"]
    written = []
    for prompt, both, text in zip(prompts, encoded, alone, strict=True):
        # Prompt and text are tokenized together, so that the first word gets its token within a text. If the tokenizer
        # merges characters of both into one token, the text's own tokens are used.
        begins = list(both[: len(prompt)]) == list(prompt)
        written.append((*(both[len(prompt) :] if begins else text), end))
    return written


def check_written(examples: Sequence[TrainingExample]) -> None:
    """Raise InputError unless every example has a written continuation."""
    if blank := [index for index, example in enumerate(examples) if example.written is UNSET or not example.written]:
        raise InputError(
            f"{len(blank)} of {len(examples)} examples have a blank text (the first is number {blank[0]}). Without "
            "labels, each needs a text."
        )

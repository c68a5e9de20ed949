"""Labels that a prompt shows: a sequence of labelled texts teaches all its labels at the cost of one long prompt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET

from fourshot.engine.tokens import encode_prompts
from fourshot.training.lora.examples import TrainingExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def shown_labels(
    tokenizer: "PreTrainedTokenizerBase", example: TrainingExample, prompt: Sequence[int]
) -> list[tuple[int, int]]:
    """Return (index of the token of ``prompt`` before a shown label, target) of each label that can be learnt.

    ``prompt``: the token ids of the example's prompt. A label is left out if the tokenizer merges it with the text
    before it, because no token then ends where the label begins.
    """
    if example.shown is UNSET:
        return []
    beginnings = encode_prompts(tokenizer, [example.prompt[: label.start] for label in example.shown])
    return [
        (len(ids) - 1, label.target)
        for ids, label in zip(beginnings, example.shown, strict=True)
        if ids == list(prompt[: len(ids)])
    ]

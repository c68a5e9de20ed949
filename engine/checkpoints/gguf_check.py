"""Check that a converted checkpoint works: loaded as the engines load it, it must predict plain English."""

import math
from pathlib import Path
from typing import Any

from fourshot.engine.errors import ModelNotFoundError
from fourshot.engine.tokens import encode_prompt, load_tokenizer

# Of chance, which is the logarithm of the vocabulary's size. A model that knows only how frequent words are has about
# 0.6 of it. SmolLM2-135M has 0.28 if its weights and tokens are correct.
MOST_OF_CHANCE = 0.5
TEXT = """The river rises in the hills to the north and runs for about two hundred miles before it reaches the sea. In \
spring, when the snow melts, it often floods the low fields along its banks, and farmers have learned to plant late. \
The largest town on the river has a stone bridge, a market on Thursdays and a small museum that is open from May to \
October. Most of the people who live there work in the paper mill or at the hospital, and many of the young ones move \
to the city as soon as they have finished school. "I would not want to live anywhere else," said one woman who has \
kept a shop near the bridge for more than thirty years. "It is quiet here, and everyone knows your name." """


def check_checkpoint(folder: Path, gguf: Path) -> float:
    """Return the mean loss on plain English, in nats per token.

    Raises ModelNotFoundError if it exceeds `MOST_OF_CHANCE` of chance, or if the tokenizer does not restore the text.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(folder)
    _check_round_trip(tokenizer, gguf)
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto", trust_remote_code=False).eval()
    ids = torch.tensor([encode_prompt(tokenizer, TEXT.strip())])
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    nats = float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))
    chance = math.log(model.config.get_text_config().vocab_size)
    if not nats <= MOST_OF_CHANCE * chance:
        raise ModelNotFoundError(
            f"{gguf} was read as {type(model).__name__}, but the resulting model does not predict English text: "
            f"{nats:.1f} nats per token of plain text, where chance is {chance:.1f} and at most "
            f"{MOST_OF_CHANCE * chance:.1f} is allowed. The file is damaged, or transformers misreads it. Use the "
            "model's own checkpoint (safetensors) instead: a folder or a Hugging Face id."
        )
    return nats


def _check_round_trip(tokenizer: Any, gguf: Path) -> None:
    """Raise ModelNotFoundError if decoding does not restore the encoded text."""
    decoded = tokenizer.decode(encode_prompt(tokenizer, TEXT.strip()), skip_special_tokens=True)
    if decoded.strip() != TEXT.strip():
        raise ModelNotFoundError(
            f"The tokenizer of {gguf} cannot be rebuilt: {TEXT[:60]!r} comes back as {decoded[:60]!r}. Use the model's "
            "own checkpoint (safetensors) instead: a folder or a Hugging Face id."
        )

"""The tokenizer of a GGUF file, with begin token and pre-tokenization as in llama.cpp.

transformers rebuilds it from the vocabulary. It does not read whether texts begin with the model's begin token, and a
Gemma without it generates nonsense. For some models, it does not read the pre-tokenization either.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedTokenizerBase

# Source: llama.cpp, src/llama-vocab.cpp, llama_vocab::impl::load: defaults for files without these fields.
BEGINS_BY_DEFAULT = ("llama3", "llama-v3", "llama-bpe", "tekken", "chameleon")
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
PLAIN = ("default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "roberta-bpe")

logger = logging.getLogger("fourshot.engine")


def gguf_tokenizer(gguf: Path, reader: "GGUFReader") -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a GGUF file. Warns if its pre-tokenization is unknown, and then uses GPT-2's."""
    from transformers import AutoTokenizer
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    def value(key: str) -> Any:
        field = reader.get_field(f"tokenizer.ggml.{key}")
        return None if field is None else field.contents()

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False)
    kind, splitter, begins = value("model"), value("pre") or "default", value("add_bos_token")
    if begins is None:
        begins = kind == "llama" or splitter in BEGINS_BY_DEFAULT
    if tokenizer.bos_token_id is not None:
        tokenizer.add_bos_token = bool(begins)
    if kind == "gpt2" and splitter in SINGLE_DIGITS:
        _cut_single_digits(tokenizer)
    elif kind == "gpt2" and splitter not in PLAIN and splitter not in GGUF_PRE_TOKENIZER_SPLITS:
        logger.warning(
            "fourshot: the tokenizer of %s splits texts by unknown rules (%s); GPT-2's are used", gguf, splitter
        )
    if kind == "llama" and value("add_space_prefix") is False:
        _add_no_space(tokenizer)
    return tokenizer


def _cut_single_digits(tokenizer: Any) -> None:
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _add_no_space(tokenizer: Any) -> None:
    """Stop a SentencePiece tokenizer from putting a space before a text, as Llama's does."""
    from tokenizers import decoders, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        tokenizer.add_prefix_space = False

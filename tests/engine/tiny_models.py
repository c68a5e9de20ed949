"""Tiny checkpoints of many families: two narrow layers with random weights, and a tokenizer of the family's kind.

Weights are large enough that scores depend on every one of them, including norms and biases. So a part that is left
out, or applied twice, is detected.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from fourshot.engine.checkpoints.gguf_check import TEXT
from tests.engine.prompts import IN_CONTEXT, LONG_LABELS

VOCABULARY = 480
WORDS = [TEXT, *IN_CONTEXT, *(f"Label: {label}\n" for label in (*LONG_LABELS, "good", "bad", "warm", "cold"))]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}


def byte_level() -> dict[str, Any]:
    """Return a tokenizer like those of GPT-2, Qwen, NeoX, OLMo: words include the space before; no begin token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(WORDS, trainer)
    return {"tokenizer_object": backend, "eos_token": "<|end|>"}


def _sentence_pieces(prefix_space: bool) -> Tokenizer:
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if prefix_space:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        strip = [decoders.Strip(content=" ", left=1)]
    else:
        backend.normalizer, strip = normalizers.Replace(" ", "▁"), []
    # Pieces are trained word by word, as in SentencePiece, but matched in complete texts.
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        WORDS, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    backend.pre_tokenizer = None
    content = json.loads(backend.to_str())
    content["added_tokens"] = content["added_tokens"][:3]  # bytes are ordinary pieces
    backend = Tokenizer.from_str(json.dumps(content))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def llama2() -> dict[str, Any]:
    """Return a tokenizer like those of Llama 2, Mistral and Phi-3: a begin token, and a space before the first word."""
    return {"tokenizer_object": _sentence_pieces(True), "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def gemma() -> dict[str, Any]:
    """Return a tokenizer like Gemma's: a begin token, no space before the first word."""
    return {"tokenizer_object": _sentence_pieces(False), "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def unigram() -> dict[str, Any]:
    """Return a tokenizer with SentencePiece's unigram model.

    It has no merges, a space before every word including the first, and an end token after each text.
    """
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "</s>"],
        unk_token="<unk>",
        initial_alphabet=["\n"],
        show_progress=False,
    )
    backend.train_from_iterator(WORDS, trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return {"tokenizer_object": backend, "eos_token": AddedToken("</s>"), "unk_token": "<unk>"}


TOKENIZERS: dict[str, Callable[[], dict[str, Any]]] = {
    "byte-level BPE": byte_level,
    "Llama 2": llama2,
    "Gemma": gemma,
    "unigram": unigram,
}


class Family:
    """A family: the name of its configuration class, its kind of tokenizer, and special fields of its configuration."""

    def __init__(self, config: str, tokenizer: str, **special: Any) -> None:
        self.config, self.tokenizer, self.special = config, tokenizer, special


NEOX = {"num_key_value_heads": None, "hidden_act": "gelu"}
FAMILIES = {
    "llama": Family("LlamaConfig", "byte-level BPE"),
    "mistral": Family("MistralConfig", "Llama 2", sliding_window=32),
    "qwen2": Family("Qwen2Config", "byte-level BPE"),
    "qwen3": Family("Qwen3Config", "byte-level BPE", head_dim=32, tie_word_embeddings=True),
    "gemma3": Family(
        "Gemma3TextConfig",
        "Gemma",
        head_dim=32,
        sliding_window=32,
        query_pre_attn_scalar=32,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "phi3": Family("Phi3Config", "Llama 2", pad_token_id=0, sliding_window=32),
    "gpt_neox": Family("GPTNeoXConfig", "byte-level BPE", **NEOX),
    "olmo2": Family("Olmo2Config", "byte-level BPE", pad_token_id=0),
    "gpt2": Family("GPT2Config", "byte-level BPE"),
    "falcon": Family("FalconConfig", "byte-level BPE", new_decoder_architecture=True, num_kv_heads=1, bias=False),
}
# Families whose layers see beyond the attention mask, so they are not trained.
MIXING = {
    "lfm2": Family("Lfm2Config", "byte-level BPE", layer_types=["conv", "full_attention"], block_ff_dim=96),
    "falcon_h1": Family("FalconH1Config", "byte-level BPE"),
    "recurrent_gemma": Family("RecurrentGemmaConfig", "Gemma"),
    "granite_hybrid": Family(
        "GraniteMoeHybridConfig",
        "byte-level BPE",
        layer_types=["mamba", "attention"],
        mamba_n_heads=8,
        mamba_d_head=16,
        mamba_n_groups=1,
        mamba_d_state=16,
        num_local_experts=0,
        num_experts_per_tok=0,
        shared_intermediate_size=96,
    ),
}


def tokenizer_of(kind: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(**TOKENIZERS[kind]())


def tiny_checkpoint(family: str, folder: Path, **changes: Any) -> str:
    """Write a tiny checkpoint of ``family`` to ``folder``. Return its path. ``changes``: configuration fields."""
    import transformers
    from transformers import AutoModelForCausalLM

    transformers.logging.disable_progress_bar()
    family_model = (FAMILIES | MIXING)[family]
    tokenizer = tokenizer_of(family_model.tokenizer)
    tokenizer.save_pretrained(folder)
    values = {
        **SIZES,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **family_model.special,
        **changes,
    }
    config = getattr(transformers, family_model.config)(
        **{key: value for key, value in values.items() if value is not None}
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    vary(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def vary(model: torch.nn.Module) -> None:
    """Make every weight large enough to affect the scores."""
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1:
                weights.normal_(std=0.3 if "emb" in name else 1.2 * weights.shape[-1] ** -0.5)
            elif name.endswith("bias"):
                weights.normal_(std=0.3)
            else:
                weights.add_(torch.randn_like(weights) * 0.3)

"""Encoders of common kinds with random weights and a tokenizer of their kind, stored like a folder from the Hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = (
    *("The dog chased a cat.", "Horses graze in the field.", "An owl hunts mice.", "My rabbit eats hay."),
    *("The bank raised its rates.", "Shares fell on Monday.", "He owes three euros.", "Prices rose again."),
)
MAX_TOKENS = 32  # number of positions of each encoder
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "initializer_range": 0.5}
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
BYTE_LEVEL_SPECIAL = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}


def _byte_level() -> Tokenizer:
    """Return byte-level BPE, as in RoBERTa and ModernBERT."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special, letters = [*BYTE_LEVEL_SPECIAL.values()], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=letters)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    return tokenizer


def word_pieces() -> Tokenizer:
    """Return WordPiece, as in BERT and DistilBERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=[*SPECIAL.values()]))
    return _framed(tokenizer)


def _unigram() -> Tokenizer:
    """Return SentencePiece's unigram model, as in DeBERTa."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = [*SPECIAL.values()]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="[UNK]", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _framed(tokenizer)


def _framed(tokenizer: Tokenizer) -> Tokenizer:
    special = [(word, tokenizer.token_to_id(word)) for word in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    return tokenizer


class Kind(NamedTuple):
    """A kind of encoder."""

    model_class: str  # class in transformers with which such an encoder is pre-trained
    make_tokenizer: Callable[[], Tokenizer]
    special: dict[str, str]
    config: dict[str, Any]


KINDS = {
    "roberta": Kind(
        "RobertaForMaskedLM",
        _byte_level,
        BYTE_LEVEL_SPECIAL,
        {**SHAPE, "num_hidden_layers": 1, "max_position_embeddings": MAX_TOKENS + 2, "type_vocab_size": 1},
    ),
    "distilbert": Kind(
        "DistilBertForMaskedLM",
        word_pieces,
        SPECIAL,
        {"dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2, "initializer_range": 0.5},
    ),
    "deberta-v2": Kind(
        "DebertaV2ForMaskedLM",
        _unigram,
        SPECIAL,
        {
            **SHAPE,
            "num_hidden_layers": 1,
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "modernbert": Kind(
        "ModernBertForMaskedLM",
        _byte_level,
        BYTE_LEVEL_SPECIAL,
        {**SHAPE, "num_hidden_layers": 2, "local_attention": 8, "pad_token_id": 1, "cls_token_id": 0},
    ),
}


def make_encoder(kind: str, folder: Path, **changes: Any) -> Path:
    """Write an encoder of ``kind`` to ``folder``, and return it. ``changes``: other fields of its configuration."""
    model_class, make_tokenizer, special, config = KINDS[kind]
    tokenizer = make_tokenizer()
    size = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": MAX_TOKENS}
    save_encoder(folder, model_class, {**size, **config, **changes}, tokenizer, special)
    return folder


def save_encoder(
    folder: Path, model_class: str, config: dict[str, Any], tokenizer: Tokenizer, special: dict[str, str]
) -> None:
    """Write random weights of ``model_class``, a class in transformers, and ``tokenizer`` to ``folder``."""
    kind = getattr(transformers, model_class)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind(kind.config_class(**config)).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)

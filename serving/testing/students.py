"""Students with random weights that are otherwise whole: a checkpoint of BERT's class, a tokenizer, a card."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from fourshot.engine.content_hash import content_hash_of
from fourshot.engine.files import settle, staged_folder, write_json
from fourshot.pipeline.selective import CoverageCurve
from fourshot.pipeline.student_card import STUDENT_FILE, StudentCard, file_hashes
from fourshot.pipeline.tasks.types import Task
from fourshot.training.students.settings import StudentSettings

WIDTH, WIDE, LAYERS, HEADS, MAX_TOKENS = 16, 32, 2, 2, 32
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-:"


def make_student(
    root: Path, task: Task, seed: int = 0, *, teacher: str = "a committee", coverage: CoverageCurve | None = None
) -> Path:
    """A student of ``task`` in a folder of its own in ``root``; another seed is another version."""
    labels = task.label_names
    vocabulary = [*SPECIAL, *SIGNS, *(f"##{sign}" for sign in SIGNS)]
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": MAX_TOKENS,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": len(vocabulary),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    with staged_folder(root) as staged:
        save_file(_weights(len(vocabulary), len(labels), seed), staged / "model.safetensors")
        (staged / "config.json").write_text(json.dumps(config))
        _tokenizer(vocabulary).save(str(staged / "tokenizer.json"))
        name = f"{task.name}-{content_hash_of(staged.glob('*.safetensors'))}"
        card = StudentCard(
            name=name,
            task=task,
            labels=labels,
            encoder="random",
            encoder_revision="0",
            teacher=teacher,
            strategy="head",
            training=StudentSettings(max_tokens=MAX_TOKENS),
            real_examples=8,
            parameters=1,
            steps=1,
            train_s=1.0,
            coverage=coverage,
            files=file_hashes(staged),
        )
        write_json(staged / STUDENT_FILE, card)
        settle(staged, root / name)
    return root / name


def _tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """A token for each sign."""
    ids = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100_000))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(word, ids[word]) for word in ("[CLS]", "[SEP]")]
    )
    return tokenizer


def _weights(words: int, labels: int, seed: int) -> dict[str, np.ndarray]:
    """Under the names of `transformers`' BertForSequenceClassification."""
    random, weights = np.random.default_rng(seed), dict[str, np.ndarray]()

    def linear(name: str, inputs: int, outputs: int, size: float = 1.0) -> None:
        weights[f"{name}.weight"] = random.normal(0, size * inputs**-0.5, (outputs, inputs))
        weights[f"{name}.bias"] = np.zeros(outputs)

    def norm(name: str) -> None:
        weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"] = np.ones(WIDTH), np.zeros(WIDTH)

    for name, number in (("word", words), ("position", MAX_TOKENS), ("token_type", 2)):
        weights[f"bert.embeddings.{name}_embeddings.weight"] = random.normal(size=(number, WIDTH))
    norm("bert.embeddings")
    for layer in range(LAYERS):
        at = f"bert.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{at}.attention.self.{part}", WIDTH, WIDTH)
        linear(f"{at}.attention.output.dense", WIDTH, WIDTH)
        linear(f"{at}.intermediate.dense", WIDTH, WIDE)
        linear(f"{at}.output.dense", WIDE, WIDTH)
        norm(f"{at}.attention.output")
        norm(f"{at}.output")
    linear("bert.pooler.dense", WIDTH, WIDTH)
    linear("classifier", WIDTH, labels, size=3.0)  # or all answers are about equally likely
    return {name: value.astype(np.float32) for name, value in weights.items()}

"""Complete students with random weights, for both kinds of tasks: a small model, a character tokenizer, a card."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from fourshot.engine.machine.content_hash import content_hash_of
from fourshot.engine.machine.files import settle, staged_folder, write_json
from fourshot.pipeline.selective import CoverageCurve
from fourshot.pipeline.student_card import STUDENT_FILE, StudentCard, file_hashes, load_student_card
from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.generation import GenerationTask
from fourshot.pipeline.text_student import TextStudentCard
from fourshot.training.students.settings import StudentSettings

MAX_TOKENS, MOST_WRITTEN = 32, 8
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "initializer_range": 0.5}
SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-:"
WRITTEN_SIGNS = "abcdefghijklmnopqrstuvwxyzFIORTW .,:|\n0123456789"


def make_student(
    root: Path, task: Task, seed: int = 0, *, teacher: str = "a committee", coverage: CoverageCurve | None = None
) -> Path:
    """Write a student of ``task`` to a new folder in ``root``, and return it. Another seed makes another version."""
    labels = task.label_names
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *SIGNS, *(f"##{sign}" for sign in SIGNS)]
    ids = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100_000))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(word, ids[word]) for word in ("[CLS]", "[SEP]")]
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        **SHAPE,
    )
    with staged_folder(root) as staged:
        _save(BertForSequenceClassification, config, seed, staged)
        tokenizer.save(str(staged / "tokenizer.json"))
        card = StudentCard(
            name=f"{task.name}-{content_hash_of(staged.glob('*.safetensors'))}",
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
        settle(staged, root / card.name)
    return root / card.name


def change_tokenizer(student: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Apply ``change`` to the student's tokenizer.json, and update the file hashes of its card."""
    file = student / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), "utf-8")
    card = load_student_card(student)
    (student / STUDENT_FILE).unlink()
    write_json(student / STUDENT_FILE, msgspec.structs.replace(card, files=file_hashes(student)))


def end_its_process(tokenizer: dict[str, Any]) -> None:
    """Change a tokenizer so that the library crashes its process: freeing a very long word overflows the stack."""
    tokenizer["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["[UNK]", 0.0], ["a" * 500_000, -1.0]]}
    tokenizer["pre_tokenizer"] = tokenizer["post_processor"] = None


def make_text_student(root: Path, task: GenerationTask, seed: int = 0) -> Path:
    """Write a student of a text generation task to a new folder in ``root``, and return it."""
    words = {word: number for number, word in enumerate(("<end>", "<unk>", *WRITTEN_SIGNS))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = Split("", "isolated"), Fuse()
    config = LlamaConfig(
        vocab_size=len(words),
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=160,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        **SHAPE,
    )
    with staged_folder(root) as staged:
        _save(LlamaForCausalLM, config, seed, staged)
        fast_tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>")
        fast_tokenizer.save_pretrained(staged)
        card = TextStudentCard(
            name=f"{task.name}-{content_hash_of(staged.glob('*.safetensors'))}",
            task=task,
            architecture="causal",
            base="random",
            base_revision="0",
            teacher="a model",
            training={},
            max_target_tokens=MOST_WRITTEN,
            real_pairs=4,
            parameters=1,
            steps=1,
            train_s=1.0,
            files=file_hashes(staged),
        )
        write_json(staged / STUDENT_FILE, card)
        settle(staged, root / card.name)
    return root / card.name


def _save(kind: Any, config: Any, seed: int, folder: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind(config).save_pretrained(folder)

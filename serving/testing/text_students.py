"""Students of text generation tasks with random weights that are otherwise whole: a small Llama, a token for a sign."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from fourshot.engine.content_hash import content_hash_of
from fourshot.engine.files import settle, staged_folder, write_json
from fourshot.pipeline.student_card import STUDENT_FILE, file_hashes
from fourshot.pipeline.tasks.generation import GenerationTask
from fourshot.pipeline.text_student import TextStudentCard

WIDTH, WIDE, LAYERS, HEADS, KV_HEADS, MAX_TOKENS, MOST_WRITTEN = 16, 32, 2, 4, 2, 160, 8
SIGNS = "abcdefghijklmnopqrstuvwxyzFIORTW .,:|\n0123456789"


def make_text_student(root: Path, task: GenerationTask, seed: int = 0) -> Path:
    """A student of ``task`` in a folder of its own in ``root``; another seed is another version."""
    words = {word: number for number, word in enumerate(("<end>", "<unk>", *SIGNS))}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": MAX_TOKENS,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "vocab_size": len(words),
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.decoder = Fuse()
    tokenizer.add_special_tokens(["<end>", "<unk>"])
    with staged_folder(root) as staged:
        save_file(_weights(len(words), seed), staged / "model.safetensors", metadata={"format": "pt"})
        (staged / "config.json").write_text(json.dumps(config))
        known = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "unk_token": "<unk>"}
        (staged / "tokenizer_config.json").write_text(json.dumps(known))
        tokenizer.save(str(staged / "tokenizer.json"))
        name = f"{task.name}-{content_hash_of(staged.glob('*.safetensors'))}"
        card = TextStudentCard(
            name=name,
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
        settle(staged, root / name)
    return root / name


def _weights(vocabulary: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    head = WIDTH // HEADS

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.5, shape).astype(np.float32)

    weights = {"model.embed_tokens.weight": drawn(vocabulary, WIDTH), "model.norm.weight": np.ones(WIDTH, np.float32)}
    for number in range(LAYERS):
        name = f"model.layers.{number}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{name}.{norm}.weight"] = 1 + drawn(WIDTH) / 4
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            weights[f"{name}.self_attn.{part}_proj.weight"] = drawn(heads * head, WIDTH)
        weights[f"{name}.self_attn.o_proj.weight"] = drawn(WIDTH, HEADS * head)
        for part in ("gate", "up"):
            weights[f"{name}.mlp.{part}_proj.weight"] = drawn(WIDE, WIDTH)
        weights[f"{name}.mlp.down_proj.weight"] = drawn(WIDTH, WIDE)
    return weights

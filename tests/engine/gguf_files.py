"""Writes GGUF files of tiny checkpoints as llama.cpp's converter does. Source: convert_hf_to_gguf.py."""

import json
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file

CONTROL, BYTE, NORMAL = 3, 6, 1


def write_gguf(checkpoint: str, file: Path, architecture: str, **changes: Any) -> Path:
    """Write ``checkpoint`` as a GGUF file with float32 weights. Return ``file``.

    ``changes``: "begins", whether texts begin with a begin token (None omits the key); "pre", the pre-tokenizer;
    "scaling" and "rope_freqs" of positions; "left_out" and "more", names of weights; "permuted", False to keep rows.
    """
    folder = Path(checkpoint)
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, architecture)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config["rope_parameters"]
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    width = config.get("head_dim") or config["hidden_size"] // heads
    if architecture == "llama":
        writer.add_rope_dimension_count(width)
        writer.add_vocab_size(config["vocab_size"])
    else:
        writer.add_key_length(width)
        writer.add_value_length(width)
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    _add_tokenizer(writer, folder, changes)
    if "scaling" in changes:
        writer.add_rope_scaling_type(gguf.RopeScalingType(changes["scaling"]))
    names = gguf.get_tensor_name_map(
        next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture),
        config["num_hidden_layers"],
    )
    for name, weights in load_file(folder / "model.safetensors").items():
        if changes.get("left_out", "nothing") in name:
            continue
        values = weights.float()
        if (
            architecture == "llama"
            and changes.get("permuted", True)
            and name.endswith(("q_proj.weight", "k_proj.weight"))
        ):
            values = _permuted(values, heads if "q_proj" in name else kv_heads)
        if architecture == "gemma3" and name.endswith("norm.weight"):
            values = values + 1
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), values.contiguous().numpy())
    for name, values in {"rope_freqs.weight": changes.get("rope_freqs"), changes.get("more"): torch.ones(2)}.items():
        if name and values is not None:
            writer.add_tensor(name, values.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _permuted(weights: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder rows for llama.cpp, which rotates neighbouring rows as pairs; transformers rotates halves."""
    return weights.reshape(heads, 2, len(weights) // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)


def _add_tokenizer(writer: Any, folder: Path, changes: dict[str, Any]) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    special = {token["content"] for token in content["added_tokens"]}
    byte_level = not content["model"].get("byte_fallback")
    kinds = [CONTROL if t in special else BYTE if t.startswith("<0x") else NORMAL for t in vocabulary]
    writer.add_tokenizer_model("gpt2" if byte_level else "llama")
    writer.add_tokenizer_pre(changes.get("pre", "gpt-2" if byte_level else "default"))
    writer.add_token_list(vocabulary)
    writer.add_token_types(kinds)
    if byte_level:
        writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
        writer.add_eos_token_id(vocabulary.index("<|end|>"))
    else:
        writer.add_token_scores([-float(index) for index in range(len(vocabulary))])
        writer.add_bos_token_id(vocabulary.index("<s>"))
        writer.add_eos_token_id(vocabulary.index("</s>"))
        writer.add_unk_token_id(vocabulary.index("<unk>"))
        if (begins := changes.get("begins", True)) is not None:
            writer.add_add_bos_token(begins)
        writer.add_add_space_prefix("Prepend" in json.dumps(content["normalizer"]))

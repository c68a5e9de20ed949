"""BERT as a classifier, in torch alone: it starts in two seconds, while importing `transformers` takes four.

Source: Devlin et al. 2019, "BERT". Weights have the names of `transformers`' BertForSequenceClassification, whose
predictions a test compares.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fourshot.engine.checkpoints.config import read_config

if TYPE_CHECKING:
    import torch


class BertClassifier:
    """A BERT classifier, loaded from a folder that `bert_supports`."""

    def __init__(self, folder: Path, device: str) -> None:
        from safetensors.torch import load_file

        self._config = read_config(folder)
        self._weights = load_file(folder / "model.safetensors", device=device)

    def __call__(self, input_ids: "torch.Tensor", attention_mask: "torch.Tensor") -> "torch.Tensor":
        """Return logits [num_texts, num_labels] for ids and mask, both int64 [num_texts, num_tokens]."""
        words, positions, kinds = (
            self._weights[f"bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        x = self._normed(words[input_ids] + positions[: input_ids.shape[1]] + kinds[0], "bert.embeddings")
        mask = attention_mask[:, None, None, :].bool()
        for number in range(self._config["num_hidden_layers"]):
            x = self._layer(x, mask, f"bert.encoder.layer.{number}")
        return self._linear(self._linear(x[:, 0], "bert.pooler.dense").tanh(), "classifier")

    def _layer(self, x: "torch.Tensor", mask: "torch.Tensor", name: str) -> "torch.Tensor":
        from torch.nn import functional

        heads = self._config["num_attention_heads"]

        def projected(part: str) -> "torch.Tensor":
            """Return the projection of x, [num_texts, num_heads, num_tokens, width / num_heads]."""
            return self._linear(x, f"{name}.attention.self.{part}").unflatten(2, (heads, -1)).transpose(1, 2)

        query, key, value = map(projected, ("query", "key", "value"))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = self._linear(mixed.transpose(1, 2).flatten(2), f"{name}.attention.output.dense")
        x = self._normed(x + mixed, f"{name}.attention.output")
        wide = functional.gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._normed(x + self._linear(wide, f"{name}.output.dense"), f"{name}.output")

    def _linear(self, x: "torch.Tensor", name: str) -> "torch.Tensor":
        from torch.nn import functional

        return functional.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _normed(self, x: "torch.Tensor", name: str) -> "torch.Tensor":
        from torch.nn import functional

        weight, bias = (self._weights[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        return functional.layer_norm(x, weight.shape, weight, bias, self._config["layer_norm_eps"])


class FastTokens:
    """The tokenizer in a folder, opened with the library `tokenizers` alone."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.enable_padding(pad_id=read_config(folder).get("pad_token_id") or 0)

    def __call__(self, texts: Sequence[str]) -> Mapping[str, "torch.Tensor"]:
        import torch

        rows = self._tokenizer.encode_batch(list(texts))
        return {
            "input_ids": torch.tensor([row.ids for row in rows]),
            "attention_mask": torch.tensor([row.attention_mask for row in rows]),
        }


def bert_supports(folder: Path) -> bool:
    """Whether `BertClassifier` computes the same as `transformers` for the checkpoint in ``folder``."""
    config = read_config(folder)
    required = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_act": "gelu"}
    usual = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
    return (
        all(config.get(key) == value for key, value in required.items())
        and all(config.get(key, value) == value for key, value in usual.items())
        and all((folder / name).is_file() for name in ("model.safetensors", "tokenizer.json"))
    )

"""A Llama-like causal student that generates texts in torch alone: it starts faster than `transformers` is imported.

Source: Touvron et al. 2023, "LLaMA", section 2.2. Weights have the names of `transformers`, whose texts a test
compares. Each batch caches its keys and values, so a token is computed once.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourshot.engine.checkpoints.config import read_config
from fourshot.engine.core import EngineSettings
from fourshot.engine.machine.collector import collector_paused
from fourshot.engine.machine.gpus import torch_device
from fourshot.engine.machine.threads import available_cores

if TYPE_CHECKING:
    import torch

MOST_TOKENS = EngineSettings(model="").max_model_len
FAMILIES = ("llama", "qwen2")  # Qwen 2 has biases in the projections before attention


class LlamaWriter:
    """A text generator, loaded from a folder that `writer_supports`."""

    def __init__(self, folder: Path) -> None:
        with collector_paused():
            import torch
            from safetensors.torch import load_file
            from tokenizers import Tokenizer

        torch.set_num_threads(available_cores())
        self._config = read_config(folder)
        weights: dict[str, torch.Tensor] = {}
        device = torch_device()
        for file in sorted(folder.glob("*.safetensors")):
            weights |= load_file(file, device=device)
        self._weights = weights
        self._embedded = weights["model.embed_tokens.weight"]
        self._out = weights.get("lm_head.weight", self._embedded)
        self._heads, self._kv_heads = (self._config[f"num_{name}_heads"] for name in ("attention", "key_value"))
        self._size = self._config.get("head_dim") or self._config["hidden_size"] // self._heads
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._end = self._tokenizer.token_to_id(_end_token(folder))
        self.most_tokens: int = min(MOST_TOKENS, self._config["max_position_embeddings"])

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each prompt, without an end token, as `engine.tokens.encode_prompts` does."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(prompts))]
        return [ids[:-1] if len(ids) > 1 and ids[-1] == self._end and ids[0] != self._end else ids for ids in rows]

    def write(self, prompts: Sequence[str], max_tokens: int, batch: int = 16) -> list[tuple[str, bool, int]]:
        """Return (text, whether it ended by itself, number of tokens) for each prompt, with greedy decoding."""
        rows = self.encode(prompts)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        written = [("", True, 0)] * len(rows)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            for index, answer in zip(chosen, self._write([rows[i] for i in chosen], max_tokens), strict=True):
                written[index] = answer
        return written

    def _write(self, rows: Sequence[Sequence[int]], max_tokens: int) -> list[tuple[str, bool, int]]:
        import torch

        longest, device = max(map(len, rows)), self._embedded.device
        ids = torch.full((len(rows), longest), self._end, device=device)
        is_token = torch.zeros(len(rows), longest + max_tokens, dtype=torch.bool, device=device)
        is_token[:, longest:] = True
        for number, row in enumerate(rows):  # padded on the left, so that all continue at the same position
            ids[number, longest - len(row) :] = torch.tensor(row, device=device)
            is_token[number, longest - len(row) : longest] = True
        positions = (is_token.cumsum(1) - 1).clamp(min=0)
        shape = (len(rows), self._kv_heads, longest + max_tokens, self._size)
        layers = self._config["num_hidden_layers"]
        cache = [(self._embedded.new_zeros(shape), self._embedded.new_zeros(shape)) for _ in range(layers)]
        written = torch.full((len(rows), max_tokens), self._end, device=device)
        ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
        start = 0
        with torch.inference_mode():
            for step in range(max_tokens):
                last = self._last_hidden(ids, positions, is_token, cache, start)
                chosen = torch.nn.functional.linear(last, self._out).argmax(-1)
                written[:, step] = torch.where(ended, self._end, chosen)
                ended |= chosen == self._end
                if ended.all():
                    break
                start, ids = longest + step, written[:, step : step + 1]
        answers = []
        for row, is_whole in zip(written.tolist(), ended.tolist(), strict=True):
            tokens = row[: row.index(self._end)] if is_whole else row
            answers.append((self._tokenizer.decode(tokens).strip(), is_whole, len(tokens) + is_whole))
        return answers

    def close(self) -> None:
        """Release the memory."""
        self._weights.clear()
        del self._embedded, self._out

    def _last_hidden(
        self,
        ids: "torch.Tensor",
        positions: "torch.Tensor",
        is_token: "torch.Tensor",
        cache: "Sequence[tuple[torch.Tensor, torch.Tensor]]",
        start: int,
    ) -> "torch.Tensor":
        """Return the last token's hidden states [num_rows, hidden_size] for ``ids`` [num_rows, num_tokens].

        The first token of ``ids`` is at column ``start``. Keys and values are written to ``cache``.
        """
        import torch
        from torch.nn import functional

        stop = start + ids.shape[1]
        columns = torch.arange(stop, device=ids.device)
        queries = columns[start:, None]
        # Padding on the left attends to itself: softmax over no tokens would give NaN.
        visible = ((columns <= queries) & is_token[:, None, :stop]) | (columns == queries)
        cos, sin = self._angles(positions[:, start:stop])
        x, eps = self._embedded[ids], self._config["rms_norm_eps"]
        for number, (keys, values) in enumerate(cache):
            name = f"model.layers.{number}"
            normed = functional.rms_norm(x, x.shape[-1:], self._weights[f"{name}.input_layernorm.weight"], eps)
            query, key, value = (
                self._linear(normed, f"{name}.self_attn.{part}").unflatten(2, (-1, self._size)).transpose(1, 2)
                for part in ("q_proj", "k_proj", "v_proj")
            )
            keys[:, :, start:stop], values[:, :, start:stop] = _rotated(key, cos, sin), value
            mixed = functional.scaled_dot_product_attention(
                _rotated(query, cos, sin),
                keys[:, :, :stop],
                values[:, :, :stop],
                attn_mask=visible[:, None],
                enable_gqa=self._heads != self._kv_heads,
            )
            x = x + self._linear(mixed.transpose(1, 2).flatten(2), f"{name}.self_attn.o_proj")
            normed = functional.rms_norm(x, x.shape[-1:], self._weights[f"{name}.post_attention_layernorm.weight"], eps)
            gate, up = (self._linear(normed, f"{name}.mlp.{part}_proj") for part in ("gate", "up"))
            x = x + self._linear(functional.silu(gate) * up, f"{name}.mlp.down_proj")
        return functional.rms_norm(x[:, -1], x.shape[-1:], self._weights["model.norm.weight"], eps)

    def _linear(self, x: "torch.Tensor", name: str) -> "torch.Tensor":
        from torch.nn import functional

        return functional.linear(x, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"))

    def _angles(self, positions: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """Return cosines and sines [num_rows, 1, num_tokens, size] for ``positions`` [num_rows, num_tokens]."""
        import torch

        steps = torch.arange(0, self._size, 2, device=positions.device).float() / self._size
        angles = positions[..., None].float() / _theta(self._config) ** steps
        both = torch.cat([angles, angles], dim=-1)[:, None]
        return both.cos().to(self._embedded.dtype), both.sin().to(self._embedded.dtype)


def _rotated(x: "torch.Tensor", cos: "torch.Tensor", sin: "torch.Tensor") -> "torch.Tensor":
    import torch

    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _theta(config: dict[str, Any]) -> float:
    return float((config.get("rope_parameters") or config).get("rope_theta", 10000.0))


def _end_token(folder: Path) -> str:
    token = json.loads((folder / "tokenizer_config.json").read_bytes()).get("eos_token") or ""
    return str(token["content"] if isinstance(token, dict) else token)


def writer_supports(folder: Path) -> bool:
    """Whether `LlamaWriter` generates the same as `transformers` for the checkpoint in ``folder``."""
    needed = ("config.json", "tokenizer.json", "tokenizer_config.json")
    if not all((folder / name).is_file() for name in needed) or not _end_token(folder):
        return False
    config = read_config(folder)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return (
        config.get("model_type") in FAMILIES
        and config.get("hidden_act") == "silu"
        and "num_key_value_heads" in config
        and (rope.get("rope_type") or rope.get("type") or "default") == "default"
        and not config.get("use_sliding_window")
        and not config.get("quantization_config")
    )

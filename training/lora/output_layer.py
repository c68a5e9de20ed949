"""The base model's output layer, for all tokens or a few, including the scaling and capping of some families."""

from typing import Any

import torch
from torch import Tensor


class OutputLayer:
    """Maps hidden states to float32 logits, as the base model's own forward does."""

    def __init__(self, model: Any) -> None:
        self._layer, config = model.get_output_embeddings(), model.config.get_text_config()
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)  # Gemma
        self._scale: float = getattr(config, "logit_scale", None) or 1.0  # Cohere
        self._scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite

    def __call__(self, hidden: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Map [N, hidden_size] to [N, vocabulary], or to [N, num_tokens] for the columns of ``tokens`` alone."""
        if tokens is None:
            logits = self._layer(hidden)
        else:
            bias = self._layer.bias[tokens] if getattr(self._layer, "bias", None) is not None else None
            logits = torch.nn.functional.linear(hidden, self._layer.weight[tokens], bias)
        if self._scale != 1.0:
            logits = logits * self._scale
        if self._cap:
            logits = torch.tanh(logits / self._cap) * self._cap
        result: Tensor = logits.float()
        return result

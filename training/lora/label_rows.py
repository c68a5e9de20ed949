"""The part of the output layer that tells labels apart in one step."""

from typing import TYPE_CHECKING

from fourshot.engine.labels import LabelTokens

if TYPE_CHECKING:
    import torch

    from fourshot.training.lora.output_layer import OutputLayer


class LabelRows:
    """Rows of the output layer for the tokens of labels, so that a few are computed instead of the vocabulary."""

    def __init__(self, head: "OutputLayer", tokens: LabelTokens, device: str) -> None:
        """``head`` is the model's output layer; ``tokens`` are said in one step."""
        import torch

        self._head = head
        self._tokens = torch.tensor(tokens.distinct, device=device)
        self._means: torch.Tensor | None = None  # [num_tokens, num_labels]; None where each label is one token
        if any(len(ids) > 1 for ids in tokens.ids):
            self._means = torch.zeros(len(tokens.distinct), len(tokens.ids), device=device)
            for label, ids in enumerate(tokens.ids):
                for token in ids:
                    self._means[tokens.distinct.index(token), label] += 1 / len(ids)

    def logits(self, hidden: "torch.Tensor") -> "torch.Tensor":
        """Float32 [..., num_labels] of last hidden states [..., hidden_size]."""
        logits = self._head(hidden, self._tokens)
        return logits if self._means is None else logits @ self._means

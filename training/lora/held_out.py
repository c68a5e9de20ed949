"""Selects the weights with the lowest loss on held-out examples, because the last step is not always the best one."""

from collections.abc import Sequence
from typing import Any

import torch

from fourshot.training.lora.label_loss import LabelLoss


class HeldOut:
    """Measures the held-out loss after every epoch. Without held-out examples, it keeps the last weights."""

    def __init__(self, wrapped: Any, loss_of: LabelLoss, first: int, targets: Sequence[int]) -> None:
        """The examples of ``loss_of`` from index ``first`` on are held out; ``targets`` are their labels."""
        self.curve: list[tuple[int, float]] = []  # step, mean label loss in nats
        self._wrapped, self._loss_of = wrapped, loss_of
        self._examples, self._targets = range(first, first + len(targets)), list(targets)
        self._best: list[torch.Tensor] = []

    @property
    def best_step(self) -> int:
        """The step whose weights are kept; 0 if nothing is held out."""
        return min(self.curve, key=lambda point: point[1])[0] if self.curve else 0

    def evaluate(self, step: int, weights: Sequence[torch.Tensor]) -> None:
        """Measure the held-out loss after step ``step``, and keep a copy of ``weights`` if it is the lowest so far.

        ``weights`` must be the model's current ones.
        """
        if not self._examples:
            return
        self._wrapped.eval()
        answers = self._loss_of.probabilities(self._examples)
        self._wrapped.train()
        of_targets = answers[range(len(self._targets)), self._targets].nan_to_num(0.0).clamp_min(1e-6)
        loss = float(-of_targets.log().mean())  # always finite, because JSON has no other numbers
        if not self.curve or loss < min(value for _, value in self.curve):
            self._best = [weight.detach().clone() for weight in weights]
        self.curve.append((step, loss))

    def restore(self, weights: Sequence[torch.Tensor]) -> None:
        """Overwrite ``weights`` with the best ones; they stay unchanged if nothing is held out."""
        for weight, best in zip(weights, self._best, strict=False):
            weight.detach().copy_(best)

    def state(self) -> dict[str, Any]:
        return {"curve": self.curve, "best": self._best}

    def load(self, state: dict[str, Any]) -> None:
        self.curve, self._best = [(step, loss) for step, loss in state["curve"]], state["best"]

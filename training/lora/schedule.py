"""The examples and the learning rate of each step, and when a training has converged."""

import random
from collections.abc import Sequence

from fourshot.training.lora.settings import LoraSettings


class Batches:
    """Batches of example indices: reshuffled for every epoch, with the remainder carried over into the next."""

    def __init__(self, num_examples: int, batch_size: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._all = list(range(num_examples))
        self._queue: list[int] = []
        self._batch_size = min(batch_size, num_examples)
        self.per_pass = -(-num_examples // self._batch_size)

    def next(self) -> list[int]:
        while len(self._queue) < self._batch_size:
            self._random.shuffle(self._all)
            self._queue.extend(self._all)
        batch, self._queue = self._queue[: self._batch_size], self._queue[self._batch_size :]
        return batch


def learning_rate(step: int, planned: int, settings: LoraSettings) -> float:
    """Return the rate of step ``step``, from 0: linear warm-up, times a linear decay to zero if ``settings.decay``."""
    warm = min(1.0, (step + 1) / max(1.0, settings.warmup_steps(planned)))
    return settings.learning_rate * (warm * (1 - step / planned) if settings.decay else warm)


def has_converged(losses: Sequence[float], per_pass: int, settings: LoraSettings) -> bool:
    """Whether the mean label loss of the last ``converged_steps``, or of an epoch, is below ``converged_loss``."""
    window, bound = settings.converged_steps or max(5, per_pass), settings.converged_loss
    return bound > 0 and len(losses) >= window and sum(losses[-window:]) / window < bound

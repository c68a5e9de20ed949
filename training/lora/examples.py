"""What the trainer is given and what it gives back. Loads neither torch nor peft."""

from collections.abc import Callable

import msgspec

from fourshot.engine.core import Adapter
from fourshot.engine.probe import Probe

PROBE_TEXTS = 10  # of the examples, whose answers by the finished adapter are kept
OnStep = Callable[[int, int, float], None]  # step, planned steps, loss in nats


class TrainingExample(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt that ends where the label is to be said, or a text."""

    prompt: str
    target: int = 0  # index into the label words
    weight: float = 1.0  # of its loss, relative to the other examples
    # How likely each label is, [num_labels], summing to one; left out: ``target`` alone is right.
    soft: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET
    written: str | msgspec.UnsetType = msgspec.UNSET  # in place of a label: how the prompt is to be continued


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one training did."""

    name: str  # content-hashed
    path: str
    steps: int
    planned_steps: int
    losses: tuple[float, ...]  # one per step, nats
    tokens: int  # through the model, forward and backward, padding included
    seconds: float  # of the training loop, without loading the model
    examples: int
    held_out_losses: tuple[tuple[int, float], ...] = ()  # step, mean label loss on held-out examples, nats
    learning_rate: float = 0.0  # the highest, after warming up; 0 in results of earlier versions
    best_step: int = 0  # whose weights were saved
    flops: float = 0.0  # of the training loop, by the rule in docs/training.md
    probe: Probe | None = None  # what the finished adapter answers on a few of the examples

    @property
    def adapter(self) -> Adapter:
        """As an engine is asked with it."""
        return Adapter(name=self.name, path=self.path)

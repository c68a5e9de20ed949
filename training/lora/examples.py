"""Input and output types of the trainer. Loads neither torch nor peft."""

from collections.abc import Callable

import msgspec

from fourshot.engine.core import Adapter
from fourshot.engine.probe import Probe

PROBE_TEXTS = 10  # examples for which the finished adapter's predictions are recorded
OnStep = Callable[[int, int, float], None]  # step, planned steps, loss in nats


class ShownLabel(msgspec.Struct, frozen=True, kw_only=True):
    """A label that a prompt shows, and that is learnt too, from what is before it."""

    start: int  # characters of the prompt before it
    target: int  # index into the label words


class TrainingExample(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt with its target: a label, label probabilities, or a written continuation."""

    prompt: str  # ends where the label or the continuation begins
    target: int = 0  # index into the label words
    weight: float = 1.0  # of its loss, relative to the other examples
    # Probability of each label, [num_labels], summing to one; unset: the label is ``target``.
    soft: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET
    written: str | msgspec.UnsetType = msgspec.UNSET  # in place of a label: the continuation to be learnt
    # Labels in the prompt, in their order, learnt with the same weight as ``target``; unset: it alone is learnt.
    shown: tuple[ShownLabel, ...] | msgspec.UnsetType = msgspec.UNSET


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one training."""

    name: str  # the prefix and the content hash
    path: str
    steps: int
    planned_steps: int
    losses: tuple[float, ...]  # one per step, nats
    tokens: int  # computed by the model, forward and backward, padding included
    seconds: float  # of the training loop, without loading the model
    examples: int
    held_out_losses: tuple[tuple[int, float], ...] = ()  # step, mean label loss on held-out examples, nats
    learning_rate: float = 0.0  # the highest, after warm-up; 0 in results of earlier versions
    best_step: int = 0  # the step whose weights were saved
    flops: float = 0.0  # of the training loop, by the rule in docs/training.md
    probe: Probe | None = None  # the finished adapter's predictions on a few of the examples

    @property
    def adapter(self) -> Adapter:
        """The trained adapter, as passed to an engine."""
        return Adapter(name=self.name, path=self.path)

"""Settings of a LoRA training. LoRA settings have PEFT's names. Loads neither torch nor peft."""

import math
from typing import Literal, TypeAlias

import msgspec

from fourshot.engine.core import Typed
from fourshot.engine.errors import InputError
from fourshot.engine.vllm_seams.adapter_check import LARGEST_RANK

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # Llama-like
ALL: Literal["all"] = "all"
TargetModules: TypeAlias = tuple[str, ...] | Literal["all"]


class LoraSettings(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The default preset. Chosen by measurement (docs/training.md)."""

    r: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: TargetModules = ALL  # every projection of the base's decoder layers, or the names of some
    adapted_layers: float = 1.0  # share of the base's decoder layers that get an adapter, the last ones
    learning_rate: float = 0.0  # 0: by the size of the base, `rate_by_size`
    weight_decay: float = 0.0
    batch_size: int = 8
    num_epochs: float = 4.0  # planned epochs, within the bounds below; with soft labels, annotate.soft_epochs applies
    min_steps: int = 0  # lower bound of the planned steps, for few texts; 0: by the labels' bits, `steps_by_bits`
    soft_max_steps: int = 160  # upper bound of the planned steps, but never below one epoch; 0: no bound
    max_steps: int = 0  # upper bound of the planned steps for any number of texts; 0: no bound
    warmup: float = 0.1  # share of the planned steps; 0: no warm-up
    min_warmup_steps: int = 10  # but no more than half of the planned steps
    decay: bool = True  # learning rate falls linearly to zero at the last planned step
    converged_loss: float = 0.0  # stop once the label loss of an epoch is below this, in nats; 0: no early stop
    converged_steps: int = 0  # that of so many steps in place of an epoch; 0: an epoch, and at least five steps
    held_out: float = 0.0  # share of the synthetic texts held out to select the epoch whose weights are saved
    label_smoothing: float = 0.0  # share of the target that is spread over all labels; loss "label" only
    loss: Literal["label", "text"] = "label"  # on the label alone, or on prompt and label, as in the paper

    def __post_init__(self) -> None:
        for name, least in (("r", 1), ("lora_alpha", 1), ("batch_size", 1), ("min_steps", 0), ("min_warmup_steps", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.r > LARGEST_RANK:
            raise InputError(f"r must be at most {LARGEST_RANK}, the largest rank that vLLM serves; got {self.r}.")
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"lora_dropout must be from 0 to below 1, got {self.lora_dropout}.")
        if min(self.max_steps, self.soft_max_steps, self.converged_steps) < 0 or not 0 <= self.num_epochs < math.inf:
            raise InputError(
                "max_steps, soft_max_steps and converged_steps must be at least 0, num_epochs a number of at least 0; "
                f"got {self.max_steps}, {self.soft_max_steps}, {self.converged_steps} and {self.num_epochs}."
            )
        if not 0 < self.adapted_layers <= 1:
            raise InputError(
                "adapted_layers is a share of the base's decoder layers, above 0 and at most 1 (all of them); got "
                f"{self.adapted_layers}."
            )
        if not 0 <= self.learning_rate < float("inf"):
            raise InputError(
                "learning_rate must be a number above 0, or 0 for one that follows from the size of the base; got "
                f"{self.learning_rate}."
            )
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"weight_decay must be a number of at least 0, got {self.weight_decay}.")
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out is a share of the synthetic texts, from 0 to below 1; got {self.held_out}.")
        if not 0 <= self.label_smoothing < 1 or (self.label_smoothing and self.loss == "text"):
            raise InputError(
                "label_smoothing is a share of the target, from 0 to below 1, and 0 where loss is 'text'; got "
                f"{self.label_smoothing} with loss {self.loss!r}."
            )
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup is a share of the planned steps, from 0 to 1; got {self.warmup}.")
        if not self.target_modules:
            raise InputError("target_modules must be 'all', or names of the base's projections; got none.")
        if self.target_modules == ALL_PROJECTIONS:  # how earlier versions spelt "all"
            msgspec.structs.force_setattr(self, "target_modules", ALL)

    def planned_steps(self, num_examples: int, num_labels: int = 0) -> int:
        """Return the planned optimizer steps for ``num_examples`` examples; ``num_labels`` 0: without labels."""
        per_pass = max(1, -(-num_examples // self.batch_size))
        passes = round(self.num_epochs * per_pass)
        if self.soft_max_steps:  # limits how often texts are repeated, not the number of texts
            passes = min(passes, max(self.soft_max_steps, per_pass))
        steps = max(self.min_steps or steps_by_bits(num_examples, num_labels), passes)
        return min(steps, self.max_steps or steps)

    def warmup_steps(self, planned: int) -> float:
        """Return the number of the planned steps in which the learning rate rises."""
        share = self.warmup * planned
        return max(share, min(self.min_warmup_steps, planned / 2)) if share else 0.0


def steps_by_bits(num_examples: int, num_labels: int) -> int:
    """Return the minimum number of steps for few texts: 1.25 per bit of their labels, at most 40; 40 without labels.

    Labels of n texts from K classes carry n log2 K bits. Forty steps on eight texts of two classes make an adapter that
    is certain of these texts and, on some draws, no better than chance (docs/training.md).
    """
    return min(40, max(1, math.ceil(1.25 * num_examples * math.log2(num_labels)))) if num_labels > 1 else 40


def rate_by_size(num_parameters: int) -> float:
    """Return the learning rate for a base of ``num_parameters``: 5e-4 up to 135 million, falling with their root above.

    Measured on two base models (docs/training-log.md): the best rate of the smaller one makes the larger one
    overconfident and wrong.
    """
    return 5e-4 * min(1.0, (135e6 / num_parameters) ** 0.5)


PRESETS: dict[str, LoraSettings] = {
    "default": LoraSettings(),
    # Source: Patwa et al. 2024, section 4: r=8, alpha=32, dropout 0.1, Adam, 100 epochs, batch 8. Projections and
    # learning rate are not stated there: these are PEFT's default for Llama models, and a common rate for LoRA.
    "paper": LoraSettings(
        lora_dropout=0.1,
        target_modules=("q_proj", "v_proj"),
        learning_rate=3e-4,
        loss="text",
        num_epochs=100.0,
        soft_max_steps=0,
        warmup=0.0,
        min_warmup_steps=0,
        decay=False,
        converged_loss=0.05,
    ),
}

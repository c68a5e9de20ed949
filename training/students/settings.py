"""Settings for the training of a student. Loads neither torch nor transformers."""

import math
from typing import Literal

from fourshot.engine.core import Typed
from fourshot.engine.errors import InputError


class StudentSettings(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a small encoder is trained on a teacher's labels. The comments are shown as help of the options."""

    # geometric: texts that the teacher labels alike are moved together, others apart. plain: the whole classifier is
    # trained on the teacher's probabilities. head: the encoder is frozen. auto: geometric up to ``few_texts``, plain
    # above.
    strategy: Literal["auto", "geometric", "plain", "head"] = "auto"  # how the encoder is trained
    few_texts: int = 1000  # the most texts for which the strategy auto is geometric
    temperature: float = 1.0  # of the teacher's probabilities: above 1 softer, below 1 more certain
    hard_share: float = 0.0  # share of the target that is the teacher's most likely label alone, 0 to 1
    weights: Literal["confidence", "equal"] = "confidence"  # texts are weighted by the teacher's confidence, or equally
    min_confidence: float = 0.0  # texts are not learnt if the teacher's confidence is lower, 0 to 1
    balance: bool = False  # give all classes the same weight, however often the teacher predicts them
    held_out: float = 0.1  # share of the teacher's texts that is held out to decide when to stop
    real_weight: float = 4.0  # of a text labelled by a person, relative to one of which the teacher is certain
    num_epochs: float = 6.0  # at most: the epoch with the best result on the held-out texts is kept
    min_steps: int = 40  # of a training on few texts, whatever number of epochs that takes
    learning_rate: float = 5e-5  # of the encoder
    batch_size: int = 32  # texts in a step
    max_tokens: int = 128  # longer texts are cut, in training and afterwards
    # For longer texts, cut and middle read the first tokens. windows classifies all parts, and is trained on the first.
    long_texts: Literal["cut", "middle", "windows"] = "cut"  # what is read of texts above max_tokens

    def __post_init__(self) -> None:
        shares = (self.hard_share, self.min_confidence, self.held_out)
        if not all(0 <= share <= 1 for share in shares) or self.held_out > 0.5:
            raise InputError(
                "hard_share and min_confidence must be from 0 to 1, held_out from 0 to 0.5; got "
                f"{self.hard_share}, {self.min_confidence} and {self.held_out}."
            )
        least = {"temperature": 1e-3, "few_texts": 1, "batch_size": 1, "min_steps": 1, "max_tokens": 8}
        above_zero = ("temperature", "real_weight", "num_epochs", "learning_rate")
        wrong = [
            f"{name} must be {f'at least {least[name]}' if name in least else 'above 0'} and finite; got {value}"
            for name in dict.fromkeys((*above_zero, *least))
            if not (0 < (value := getattr(self, name)) < math.inf and value >= least.get(name, 0))
        ]
        if wrong:
            raise InputError(f"{'; '.join(wrong)}.")

    def strategy_for(self, texts: int) -> Literal["geometric", "plain", "head"]:
        """Return the strategy for ``texts`` texts, held-out ones included."""
        if self.strategy != "auto":
            return self.strategy
        return "geometric" if texts <= self.few_texts else "plain"

    def planned_passes(self, texts: int) -> int:
        """Return the epochs over ``texts`` training texts, without an early stop."""
        per_pass = math.ceil(texts / self.batch_size)
        return max(round(self.num_epochs), math.ceil(self.min_steps / per_pass))


class TextStudentSettings(Typed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a small model is trained on a teacher's targets; 0: the default of the kind of model.

    For a causal model, which is trained with LoRA, these replace the LoRA settings of the same name.
    """

    num_epochs: float = 0.0  # at most: the epoch with the best result on the held-out texts is kept
    learning_rate: float = 0.0
    batch_size: int = 0
    held_out: float = 0.1  # share of the teacher's texts that is held out to decide when to stop
    max_tokens: int = 256  # longer inputs are cut
    max_target_tokens: int = 128  # longer targets are cut, and generated texts end there

    def __post_init__(self) -> None:
        numbers = (self.num_epochs, self.learning_rate, self.batch_size)
        is_usable = all(0 <= number < math.inf for number in numbers)
        if not is_usable or not 0 <= self.held_out <= 0.5 or min(self.max_tokens, self.max_target_tokens) < 8:
            raise InputError(
                "num_epochs, learning_rate and batch_size must be at least 0 (0: by the model's kind), held_out from 0 "
                f"to 0.5, max_tokens and max_target_tokens at least 8; got {numbers}, {self.held_out}, "
                f"{self.max_tokens} and {self.max_target_tokens}."
            )

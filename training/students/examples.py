"""Input and output types of the trainer of students. Loads neither torch nor transformers."""

import hashlib
from functools import cached_property

import msgspec

from fourshot.training.students.settings import StudentSettings


class TaughtExample(msgspec.Struct, frozen=True, kw_only=True):
    """A text with label probabilities, as a training target."""

    text: str
    probabilities: tuple[float, ...]  # [num_labels], sums to one
    is_real: bool = False  # labelled by a person


class StudentJob(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One student to train."""

    name: str  # prefix of the student's name
    title: str  # for display
    encoder: str  # folder
    encoder_revision: str
    labels: tuple[str, ...]  # names
    examples: tuple[TaughtExample, ...]
    settings: StudentSettings
    seed: int = 0

    @cached_property
    def key(self) -> str:
        """Hash of everything that determines the student's bytes."""
        content = msgspec.to_builtins(self)
        del content["title"], content["encoder"]
        if self.settings.long_texts != "windows":  # so that students of earlier versions keep their keys
            del content["settings"]["long_texts"]
        return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]


class StudentResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one training."""

    name: str  # the prefix and the content hash
    path: str
    strategy: str  # the one used
    parameters: int
    examples: int  # used for training
    left_out: int  # not used, because the teacher was not confident enough
    steps: int
    seconds: float
    losses: tuple[float, ...] = ()  # one per step
    held_out: int = 0  # texts
    held_out_losses: tuple[float, ...] = ()  # cross-entropy with the teacher, nats: of the head alone, then by epoch
    held_out_agreement: float | None = None  # share of the held-out texts with the same label by student and teacher
    temperature: float = 1.0  # the last layer's weights were divided by it
    calibrated_on: str = ""  # for display; "" if no temperature was fitted

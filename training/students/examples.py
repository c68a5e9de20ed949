"""What the trainer of students is given and what it gives back. Loads neither torch nor transformers."""

import hashlib
from functools import cached_property

import msgspec

from fourshot.training.students.settings import StudentSettings


class TaughtExample(msgspec.Struct, frozen=True, kw_only=True):
    """A text, and how likely each label is."""

    text: str
    probabilities: tuple[float, ...]  # [num_labels], sums to one
    is_real: bool = False  # labelled by a person


class StudentJob(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One student to train."""

    name: str  # what the student's name begins with
    title: str  # for people
    encoder: str  # folder
    encoder_revision: str
    labels: tuple[str, ...]  # names
    examples: tuple[TaughtExample, ...]
    settings: StudentSettings
    seed: int = 0

    @cached_property
    def key(self) -> str:
        """Content hash: all that decides the student's bytes."""
        content = msgspec.to_builtins(self)
        del content["title"], content["encoder"]
        if self.settings.long_texts != "windows":  # else the students of earlier versions would be trained again
            del content["settings"]["long_texts"]
        return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]


class StudentResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one training did."""

    name: str  # content-hashed
    path: str
    strategy: str  # the one that was taken
    parameters: int
    examples: int  # that were learnt
    left_out: int  # the teacher was not sure enough of them
    steps: int
    seconds: float
    losses: tuple[float, ...] = ()  # one per step
    held_out: int = 0  # texts
    held_out_losses: tuple[float, ...] = ()  # cross-entropy with the teacher, nats: of the head alone, then by epoch
    held_out_agreement: float | None = None  # share of the held-out texts on which student and teacher say the same
    temperature: float = 1.0  # that its last layer was divided by
    calibrated_on: str = ""  # for people; "" where no temperature was found

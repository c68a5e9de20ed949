"""Small encoders, fine-tuned on the shots, as annotators."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from fourshot.pipeline.rows.fields import encoder_text
from fourshot.pipeline.task import Task

if TYPE_CHECKING:
    import numpy as np

    from fourshot.training.students.classifier import StudentClassifier

OPEN_ENCODERS = 8  # of all committees of a process, which may be many: each takes 0.1 GB


class EncoderFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A small encoder, fine-tuned on the shots (`training.students`)."""

    name: str  # content-hashed
    path: str
    max_tokens: int

    def probabilities(self, task: Task, texts: Sequence[str]) -> "np.ndarray":
        """Return its label probabilities, float64 [num_texts, num_labels]; rows sum to one."""
        inputs = [encoder_text(task, text, self.max_tokens) for text in texts]
        return _opened(self).probabilities(inputs).astype("float64")


@lru_cache(maxsize=OPEN_ENCODERS)
def _opened(files: EncoderFiles) -> "StudentClassifier":
    """Load an encoder, in place of the one that was queried longest ago if too many are loaded."""
    from fourshot.training.students.classifier import StudentClassifier

    return StudentClassifier(files.path, files.max_tokens)

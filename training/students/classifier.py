"""A finished student in this process: texts in, label probabilities out. No language model, no engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fourshot.engine.collector import collector_paused
from fourshot.engine.errors import AdapterError
from fourshot.engine.models import broken_shards
from fourshot.training.students.encoders import BATCH, by_length

if TYPE_CHECKING:
    import numpy as np


class StudentClassifier:
    """The checkpoint in a student's folder, on a GPU where there is one."""

    def __init__(self, folder: str | Path, max_tokens: int) -> None:
        """Raises AdapterError where the folder is damaged."""
        if faults := broken_shards(Path(folder)) or (
            [] if any(Path(folder).glob("*.safetensors")) else ["it has no weights"]
        ):
            raise AdapterError(f"The student {folder} is damaged: {'; '.join(faults)}. Copy it again, whole.")
        with collector_paused():
            import torch
            from transformers import AutoModelForSequenceClassification, AutoTokenizer
            from transformers.utils import logging

        logging.disable_progress_bar()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._max_tokens = max_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        self.model = model.eval().to(self._device)

    def probabilities(self, texts: Sequence[str], batch: int = BATCH) -> "np.ndarray":
        """Float32 [num_texts, num_labels], rows sum to one; of no texts, none."""
        import numpy as np
        import torch

        if not texts:
            return np.zeros((0, self.model.config.num_labels), dtype=np.float32)
        with torch.inference_mode():
            logits = by_length(
                self.tokenizer, texts, self._max_tokens, lambda b: self.model(**b.to(self._device)).logits, batch
            )
        return logits.softmax(1).cpu().numpy()

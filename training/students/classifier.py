"""A finished student in this process: texts in, label probabilities out. No language model, no engine."""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourshot.engine.collector import collector_paused
from fourshot.engine.errors import AdapterError
from fourshot.engine.models import broken_shards
from fourshot.training.students.bert import BertClassifier, FastTokens, fits
from fourshot.training.students.encoders import BATCH, by_length, encoded

if TYPE_CHECKING:
    import numpy as np


class StudentClassifier:
    """The checkpoint in a student's folder, on a GPU where there is one."""

    def __init__(self, folder: str | Path, max_tokens: int) -> None:
        """Raises AdapterError where the folder is damaged."""
        folder = Path(folder)
        if faults := broken_shards(folder) or ([] if any(folder.glob("*.safetensors")) else ["it has no weights"]):
            raise AdapterError(f"The student {folder} is damaged: {'; '.join(faults)}. Copy it again, whole.")
        with collector_paused():
            import torch

        self._folder, self._max_tokens = folder, max_tokens
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokens: Any
        if fits(folder):
            self._logits: Any = BertClassifier(folder, self._device)
            self.tokens = FastTokens(folder, max_tokens)
        else:
            model, tokenizer = open_checkpoint(folder)
            model.to(self._device)
            self._logits = lambda **batch: model(**batch).logits
            self.tokens = partial(encoded, tokenizer, max_tokens=max_tokens)

    def probabilities(self, texts: Sequence[str], batch: int = BATCH) -> "np.ndarray":
        """Float32 [num_texts, num_labels], rows sum to one. Raises InputError for no texts."""
        import torch

        def logits(tokens: Any) -> "torch.Tensor":
            return self._logits(**{name: tensor.to(self._device) for name, tensor in tokens.items()})

        with torch.inference_mode():
            return by_length(self.tokens, texts, logits, batch).softmax(1).cpu().numpy()

    def read_chars(self, text: str) -> int:
        """How many characters of a text it reads: those of its first ``max_tokens`` tokens."""
        if len(text.encode(errors="replace")) < self._max_tokens - 2 or not (self._folder / "tokenizer.json").is_file():
            return len(text)  # no token is less than a byte
        kept = self._max_tokens - self._uncut.num_special_tokens_to_add(is_pair=False)
        offsets = self._uncut.encode(text, add_special_tokens=False).offsets
        return offsets[kept - 1][1] if len(offsets) > kept else len(text)

    @cached_property
    def _uncut(self) -> Any:
        """The tokenizer without a bound."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def open_checkpoint(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer), as `transformers` opens them."""
    with collector_paused():
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)

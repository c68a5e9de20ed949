"""A finished student that classifies in this process, without a language model or an engine."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourshot.engine.calibration import combine_parts
from fourshot.engine.checkpoints.models import broken_shards, damage_message
from fourshot.engine.errors import AdapterError
from fourshot.engine.machine.collector import collector_paused
from fourshot.engine.machine.gpus import torch_device
from fourshot.training.students.bert import BertClassifier, FastTokens, bert_supports
from fourshot.training.students.encoders import BATCH, by_length, encoded, open_tokenizer
from fourshot.training.students.windows import reads_windows, windows

if TYPE_CHECKING:
    import numpy as np
    import torch


class TextReader:
    """Determines which part of a text a student reads, or its parts, with the tokenizer alone."""

    def __init__(self, folder: Path, max_tokens: int, *, in_parts: bool = True) -> None:
        """``in_parts``: read long texts in parts, if the checkpoint is configured so."""
        self._folder, self._max_tokens = folder, max_tokens
        self._windows = in_parts and reads_windows(folder)

    def parts(self, text: str) -> list[str]:
        """Return the parts of a text, which are classified separately: the text itself, or windows of a long one."""
        if not self._windows or not self._may_be_long(text):
            return [text]
        return windows(self._uncut, text, self._max_tokens)

    def read_chars(self, text: str) -> int:
        """Return how many characters of a text are read: those of its first ``max_tokens`` tokens, or all, in parts."""
        if self._windows or not self._may_be_long(text):
            return len(text)
        room = self._max_tokens - self._uncut.num_special_tokens_to_add(is_pair=False)
        offsets = self._uncut.encode(text, add_special_tokens=False).offsets
        return offsets[room - 1][1] if len(offsets) > room else len(text)

    def _may_be_long(self, text: str) -> bool:
        """Whether a text may have too many tokens, judged by its bytes; each token covers at least one byte."""
        return (
            len(text.encode(errors="replace")) >= self._max_tokens - 2 and (self._folder / "tokenizer.json").is_file()
        )

    @cached_property
    def _uncut(self) -> Any:
        """The tokenizer without truncation and padding."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


class StudentClassifier(TextReader):
    """A classifier loaded from a student's folder, on a GPU if there is one."""

    def __init__(self, folder: str | Path, max_tokens: int, *, in_parts: bool = True) -> None:
        """``in_parts``: as for `TextReader`.

        Raises AdapterError if the folder is damaged.
        """
        folder = Path(folder)
        self._logits, self._device = open_logits(folder)
        super().__init__(folder, max_tokens, in_parts=in_parts)
        self.tokens: Any
        if bert_supports(folder):
            self.tokens = FastTokens(folder, max_tokens)
        else:
            self.tokens = partial(encoded, open_tokenizer(folder), max_tokens=max_tokens)

    def probabilities(self, texts: Sequence[str], batch: int = BATCH) -> "np.ndarray":
        """Return float32 [num_texts, num_labels], each row summing to one. Raises InputError for no texts."""
        import torch

        def logits(tokens: Any) -> "torch.Tensor":
            return self._logits(**{name: tensor.to(self._device) for name, tensor in tokens.items()})

        parts = [self.parts(text) for text in texts]
        flat = [part for text_parts in parts for part in text_parts]
        with torch.inference_mode():
            probabilities = by_length(self.tokens, flat, logits, batch).softmax(1).cpu().numpy()
        if len(flat) == len(parts):
            return probabilities
        return combine_parts(probabilities, [len(text_parts) for text_parts in parts]).astype(probabilities.dtype)


def open_logits(folder: Path) -> "tuple[Callable[..., torch.Tensor], str]":
    """Return a function from ``input_ids`` and ``attention_mask`` to logits, and the device it expects them on.

    Raises AdapterError if the folder is damaged.
    """
    if faults := broken_shards(folder) or ([] if any(folder.glob("*.safetensors")) else ["it has no weights"]):
        raise AdapterError(damage_message(f"The student {folder}", faults))
    with collector_paused():
        device = torch_device()
    if bert_supports(folder):
        return BertClassifier(folder, device), device
    model = open_model(folder).to(device)
    return lambda **batch: model(**batch).logits, device


def open_model(folder: Path) -> Any:
    """Load the checkpoint with `transformers`, in float32 and evaluation mode."""
    with collector_paused():
        import torch
        from transformers import AutoModelForSequenceClassification
        from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    ).eval()

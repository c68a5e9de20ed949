"""A finished student for a server, from token ids to logits: with ONNX if it has a checked file, else with torch.

Importing this module loads neither torch nor onnxruntime. With ONNX, torch is never loaded.
"""

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourshot.engine.errors import AdapterError
from fourshot.engine.machine.threads import available_cores
from fourshot.training.students.classifier import TextReader, open_logits
from fourshot.training.students.onnx_export import FLOAT_FILE, INPUTS, INT8_FILE, ONNX_FOLDER, Parity

if TYPE_CHECKING:
    import numpy as np

BATCH = 32  # rows padded to the same length
TOKENIZER, CONFIG = "tokenizer.json", "config.json"
# Texts with another label in int8 are between two labels, and about as many gain the correct label as lose it. So the
# loss of accuracy decides whether int8 is used if it is known on enough texts, else the share of other labels.
MOST_POINTS_LOST, ENOUGH_TESTED = 0.5, 200
MOST_OTHER_LABELS = 0.01  # share of the probed texts


def file_to_use(parities: Sequence[Parity]) -> str:
    """Return the ONNX file to serve, relative to the student's folder; "" for the checkpoint itself.

    ``parities``: of the existing files, from the student's card. int8 is preferred to float if it is as accurate as the
    student, or predicts the same labels. Without onnxruntime, the checkpoint is used.
    """
    if find_spec("onnxruntime") is None:
        return ""
    checked = {parity.file: parity for parity in parities}
    int8 = checked.get(INT8_FILE)
    if int8 and _may_answer(int8):
        return f"{ONNX_FOLDER}/{INT8_FILE}"
    return f"{ONNX_FOLDER}/{FLOAT_FILE}" if FLOAT_FILE in checked else ""


def _may_answer(int8: Parity) -> bool:
    if int8.points_lost is not None and int8.tested >= ENOUGH_TESTED:
        return int8.points_lost <= MOST_POINTS_LOST
    return bool(int8.texts) and int8.other_labels <= MOST_OTHER_LABELS * int8.texts


class ServingModel(TextReader):
    """A loaded student. Only one thread at a time may compute."""

    def __init__(self, folder: Path, file: str, max_tokens: int, num_labels: int) -> None:
        """``file``: as returned by `file_to_use`. Raises AdapterError if the student cannot be loaded."""
        from tokenizers import Tokenizer

        self._num_labels = num_labels
        try:
            super().__init__(folder, max_tokens)
            self._pad = json.loads((folder / CONFIG).read_bytes()).get("pad_token_id") or 0
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            self._compute = _onnx(folder / file) if file else _torch(folder)
        except Exception as error:  # the libraries raise errors of any type for unusable files
            raise AdapterError(f"it cannot be loaded: {error}") from error
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, truncated to ``max_tokens``."""
        return [row.ids for row in self._tokenizer.encode_batch(list(texts))]

    def logits(self, rows: Sequence[Sequence[int]]) -> "np.ndarray":
        """Return float32 logits [num_rows, num_labels] for rows of token ids, in their order.

        Raises AdapterError if the result has another shape or values that are not finite.
        """
        import numpy as np

        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        out = np.empty((len(rows), self._num_labels), dtype=np.float32)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            longest = max(len(rows[index]) for index in part)
            ids = np.full((len(part), longest), self._pad, dtype=np.int64)
            mask = np.zeros_like(ids)
            for place, index in enumerate(part):
                ids[place, : len(rows[index])] = rows[index]
                mask[place, : len(rows[index])] = 1
            logits = self._compute(ids, mask)
            if logits.shape != (len(part), self._num_labels) or not np.isfinite(logits).all():
                raise AdapterError(
                    f"it gives {list(logits.shape)} values, or some that are not numbers; {len(part)} texts and "
                    f"{self._num_labels} labels were expected"
                )
            out[part] = logits
        return out


Compute = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]  # ids and mask, int64 [num_texts, num_tokens] -> logits


def _onnx(file: Path) -> Compute:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # frees the cores between batches
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def compute(ids: "np.ndarray", mask: "np.ndarray") -> Any:
        return session.run(None, dict(zip(INPUTS, (ids, mask), strict=True)))[0]

    return compute


def _torch(folder: Path) -> Compute:
    logits, device = open_logits(folder)
    import torch  # already loaded by `open_logits`, with the garbage collector paused

    def compute(ids: "np.ndarray", mask: "np.ndarray") -> Any:
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(value).to(device) for name, value in zip(INPUTS, (ids, mask), strict=True)}
            return logits(**inputs).float().cpu().numpy()

    return compute

"""The state of an unfinished training on disk, so that a worker's death costs the steps since the last one."""

import io
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from fourshot.engine.machine.files import replace_file

CHECKPOINT_S = 30.0


class Checkpoint:
    """One file, written whole or not at all. What is in it is the trainer's business."""

    def __init__(self, file: Path, every_s: float = CHECKPOINT_S) -> None:
        self._file, self._every_s = file, every_s
        self._last_s = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._last_s >= self._every_s

    def save(self, state: dict[str, Any]) -> None:
        """Tensors, numbers, lists and mappings of them."""
        buffer = io.BytesIO()  # some ten megabytes: adapters, not bases
        torch.save(state, buffer)
        replace_file(self._file, buffer.getvalue())
        self._last_s = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved; None where nothing was, or where it cannot be read: then the training starts anew."""
        try:
            state: dict[str, Any] = torch.load(self._file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile):
            self.remove()
            return None
        return state

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)

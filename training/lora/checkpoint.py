"""Checkpoints of an unfinished training, so that a worker's death costs only the steps since the last one."""

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
    """One file, written atomically. The trainer determines its content."""

    def __init__(self, file: Path, every_s: float = CHECKPOINT_S) -> None:
        self._file, self._every_s = file, every_s
        self._last_s = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._last_s >= self._every_s

    def save(self, state: dict[str, Any]) -> None:
        """Write ``state``, which may contain tensors, numbers, and lists and mappings of them."""
        buffer = io.BytesIO()  # tens of megabytes: the state has adapters, not base models
        torch.save(state, buffer)
        replace_file(self._file, buffer.getvalue())
        self._last_s = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the saved state; None if there is none or it is unreadable, so the training starts from the beginning.

        An unreadable file is removed.
        """
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

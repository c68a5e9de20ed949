"""The configuration file of a checkpoint. Importing this module loads only the standard library."""

import json
from pathlib import Path
from typing import Any


def read_config(folder: str | Path) -> dict[str, Any]:
    """Return the configuration of the checkpoint in ``folder``. Raises OSError, and ValueError for invalid JSON."""
    config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return config

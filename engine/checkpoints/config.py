"""What a checkpoint says about itself. Importing this module loads the standard library alone."""

import json
from pathlib import Path
from typing import Any


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of the checkpoint in ``folder``. Raises OSError, and ValueError for what is no JSON."""
    config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return config

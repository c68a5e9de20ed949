"""How long a text a base can read. Beyond it answers would be wrong, or end the engine."""

import json
import logging
from pathlib import Path

import msgspec

from fourshot.engine.core import EngineSettings

NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")  # as families call it

logger = logging.getLogger("fourshot.engine")


def longest_context(model: str | Path) -> int | None:
    """Tokens that the checkpoint in ``model`` has positions for, prompt and answer; None where it does not say."""
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    config = config.get("text_config") or config
    return next((int(config[name]) for name in NAMES if isinstance(config.get(name), int)), None)


def within_context(settings: EngineSettings) -> EngineSettings:
    """``settings`` with a ``max_model_len`` that the model has positions for. Longer prompts are then refused."""
    longest = longest_context(settings.model)
    if longest is None or settings.max_model_len <= longest:
        return settings
    logger.info("%s reads at most %d tokens: max_model_len is that", settings.model, longest)
    return msgspec.structs.replace(settings, max_model_len=longest)

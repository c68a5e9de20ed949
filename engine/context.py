"""How long a text a base can read. Beyond it answers would be wrong, or end the engine."""

import logging
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.checkpoints.config import read_config
from fourshot.engine.core import EngineSettings

NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")  # as families call it

logger = logging.getLogger("fourshot.engine")


def longest_context(model: str | Path) -> int | None:
    """Tokens that the checkpoint in ``model`` has positions for, prompt and answer; None where it does not say."""
    config = _config(model)
    return next((int(config[name]) for name in NAMES if isinstance(config.get(name), int)), None)


def readable_tokens(model: str | Path) -> int | None:
    """Tokens that its last one sees in every layer: the positions, or a sliding window that is in use and shorter."""
    config, longest = _config(model), longest_context(model)
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return min((length for length in (longest, window) if isinstance(length, int)), default=None)


def _config(model: str | Path) -> dict[str, Any]:
    """Of the text model in a checkpoint folder; empty where it has none that can be read."""
    try:
        config = read_config(model)
    except (OSError, ValueError):
        return {}
    return config.get("text_config") or config


def within_context(settings: EngineSettings) -> EngineSettings:
    """``settings`` with a ``max_model_len`` that the model has positions for. Longer prompts are then refused."""
    longest = longest_context(settings.model)
    if longest is None or settings.max_model_len <= longest:
        return settings
    logger.info("%s reads at most %d tokens: max_model_len is that", settings.model, longest)
    return msgspec.structs.replace(settings, max_model_len=longest)

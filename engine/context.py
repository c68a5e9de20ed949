"""Maximum context length of a base model. Longer prompts would give wrong answers, or end the engine."""

import logging
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.checkpoints.config import read_config
from fourshot.engine.core import EngineSettings

NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")  # of the field, by model family

logger = logging.getLogger("fourshot.engine")


def longest_context(model: str | Path) -> int | None:
    """Return how many tokens, prompt and answer, the checkpoint in ``model`` has positions for; None if unknown."""
    config = _config(model)
    return next((int(config[name]) for name in NAMES if isinstance(config.get(name), int)), None)


def attention_span(model: str | Path) -> int | None:
    """Return how many tokens the last one attends to in every layer: all positions, or a shorter sliding window."""
    config, longest = _config(model), longest_context(model)
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return min((length for length in (longest, window) if isinstance(length, int)), default=None)


def _config(model: str | Path) -> dict[str, Any]:
    """Return the configuration of the text model in a checkpoint folder; empty if it cannot be read."""
    try:
        config = read_config(model)
    except (OSError, ValueError):
        return {}
    return config.get("text_config") or config


def within_context(settings: EngineSettings) -> EngineSettings:
    """Return ``settings`` with ``max_model_len`` limited to the model's positions. Longer prompts are then rejected."""
    longest = longest_context(settings.model)
    if longest is None or settings.max_model_len <= longest:
        return settings
    logger.info("%s accepts at most %d tokens, so max_model_len is set to that", settings.model, longest)
    return msgspec.structs.replace(settings, max_model_len=longest)

"""Adapters: which one applies to which prompt, and their ranks."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fourshot.engine.core import Adapter, PerPromptAdapter
from fourshot.engine.errors import InputError


def per_prompt(adapter: PerPromptAdapter, num_prompts: int) -> list[Adapter | None]:
    """Return the adapter or None of each of ``num_prompts`` prompts. Raises InputError if a list has another length."""
    if adapter is None or isinstance(adapter, Adapter):
        return [adapter] * num_prompts
    assert isinstance(adapter, Sequence)
    if len(adapter) != num_prompts:
        raise InputError(
            f"Got {len(adapter)} adapters for {num_prompts} prompts. Give one for all prompts, or one per prompt."
        )
    return list(adapter)


def slot_rank(rank: int) -> int:
    """Return the smallest rank that vLLM has kernels for and that can hold an adapter of ``rank``."""
    return max(8, 1 << (rank - 1).bit_length())


def rank_of(adapter: Adapter) -> int:
    """Return the rank of an adapter on disk, from its configuration."""
    config = msgspec.json.decode((Path(adapter.path) / "adapter_config.json").read_bytes())
    return int(config["r"])

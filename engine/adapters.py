"""Which adapter goes with which prompt."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fourshot.engine.core import Adapter, PerPromptAdapter
from fourshot.engine.errors import InputError


def per_prompt(adapter: PerPromptAdapter, num_prompts: int) -> list[Adapter | None]:
    """One adapter, or none, for each of ``num_prompts`` prompts. Raises InputError if a list has another length."""
    if adapter is None or isinstance(adapter, Adapter):
        return [adapter] * num_prompts
    assert isinstance(adapter, Sequence)
    if len(adapter) != num_prompts:
        raise InputError(
            f"Got {len(adapter)} adapters for {num_prompts} prompts. Give one for all prompts, or one per prompt."
        )
    return list(adapter)


def slot_rank(rank: int) -> int:
    """The smallest rank that vLLM has kernels for and that holds an adapter of ``rank``."""
    return max(8, 1 << (rank - 1).bit_length())


def rank_of(adapter: Adapter) -> int:
    """The rank that an adapter on disk has."""
    config = msgspec.json.decode((Path(adapter.path) / "adapter_config.json").read_bytes())
    return int(config["r"])

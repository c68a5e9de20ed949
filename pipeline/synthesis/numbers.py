"""Checks of numbers in settings: values that a manifest cannot store, and values below a setting's minimum.

Importing this module loads neither torch nor vllm.
"""

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from fourshot.engine.errors import InputError

LARGEST = (1 << 63) - 1  # integer in msgspec's JSON, and seed of torch
LEAST: Mapping[str, float] = MappingProxyType(  # of settings whose structs do not check it themselves
    {
        "seed": 0,
        "max_text_words": 1,
        "test_limit": 0,
        "generate.max_tokens": 0,
        "annotate.fold_epochs": 0,
        "train.weight_decay": 0,
        "train.converged_loss": 0,
        "annotate.converged_loss": 0,
        "filter.shortest_chars": 0,
        "filter.longest_chars": 0,
    }
)
ABOVE_0 = ("shot_weight",)


def check_numbers(settings: msgspec.Struct) -> None:
    """Raise InputError for the first number in ``settings`` that is not finite, too large, or out of bounds."""
    for name, value in _numbers(settings):
        if not math.isfinite(value):
            raise InputError(f"{name} must be a finite number, got {value}. To set no limit, give a large number.")
        if abs(value) > LARGEST and isinstance(value, int):
            raise InputError(f"{name} must be at most {LARGEST}, got {value}.")
        if value < LEAST.get(name, -math.inf):
            raise InputError(f"{name} must be at least {LEAST[name]}, got {value}.")
        if name in ABOVE_0 and value <= 0:
            raise InputError(f"{name} must be above 0, got {value}.")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield (dotted name, number) for every number in a setting; those in a tuple have the tuple's name."""
    if isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _numbers(getattr(value, field), f"{name}.{field}" if name else field)
    elif isinstance(value, tuple):
        for part in value:
            yield from _numbers(part, name)
    elif isinstance(value, int | float):
        yield name, value

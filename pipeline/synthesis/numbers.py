"""Numbers that no setting may have: those that a manifest cannot hold, and those below what the setting counts.

Importing this module loads neither torch nor vllm.
"""

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from fourshot.engine.errors import InputError

LARGEST = (1 << 63) - 1  # of JSON in msgspec, and of what seeds torch
LEAST: Mapping[str, float] = MappingProxyType(  # of settings whose own structs have no word on it
    {
        "seed": 0,
        "max_text_words": 1,
        "test_limit": 0,
        "generate.max_tokens": 0,
        "annotate.fold_epochs": 0,
        "train.weight_decay": 0,
        "train.converged_loss": 0,
        "filter.shortest_chars": 0,
        "filter.longest_chars": 0,
    }
)
ABOVE_0 = ("shot_weight",)


def check_numbers(settings: msgspec.Struct) -> None:
    """Raise InputError for the first number in ``settings`` that is none, too large to be kept, or out of bounds."""
    for name, value in _numbers(settings):
        if not math.isfinite(value):
            raise InputError(
                f"{name} must be a finite number, got {value}. For a bound that never holds, give a large number."
            )
        if abs(value) > LARGEST and isinstance(value, int):
            raise InputError(f"{name} must be at most {LARGEST}, got {value}.")
        if value < LEAST.get(name, -math.inf):
            raise InputError(f"{name} must be at least {LEAST[name]}, got {value}.")
        if name in ABOVE_0 and value <= 0:
            raise InputError(f"{name} must be above 0, got {value}.")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """(dotted name, number) of every number in a setting; of a list, by the list's name."""
    if isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _numbers(getattr(value, field), f"{name}.{field}" if name else field)
    elif isinstance(value, tuple):
        for part in value:
            yield from _numbers(part, name)
    elif isinstance(value, int | float):
        yield name, value

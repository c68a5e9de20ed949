"""The files of an adapter, and its name, which contains their hash."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME_DIGITS = 12  # hex digits of the hash in a name; 48 bits distinguish as many adapters as a disk can hold


def content_hash(adapter: Path) -> str:
    """Return the hash of the weights and the configuration, `NAME_DIGITS` long, without the base model's path."""
    config = msgspec.json.decode((adapter / ADAPTER_CONFIG).read_bytes(), type=dict[str, Any])
    config.pop("base_model_name_or_path", None)
    digest = hashlib.sha256(msgspec.json.encode(config, order="sorted"))
    digest.update((adapter / ADAPTER_WEIGHTS).read_bytes())
    return digest.hexdigest()[:NAME_DIGITS]


def is_unchanged(adapter: Path, name: str) -> bool:
    """Whether the files in the folder ``adapter`` match the hash at the end of ``name``."""
    try:
        return name.endswith(f"-{content_hash(adapter)}")
    except (OSError, msgspec.DecodeError):  # files are missing or incomplete
        return False

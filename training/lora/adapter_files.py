"""The files of an adapter, which is named by what is in them."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME_DIGITS = 12  # of the hash; 48 bits tell apart any number of adapters that a disk holds


def content_hash(adapter: Path) -> str:
    """Hash of the weights and of the configuration less where the base happened to lie."""
    config = msgspec.json.decode((adapter / ADAPTER_CONFIG).read_bytes(), type=dict[str, Any])
    config.pop("base_model_name_or_path", None)
    digest = hashlib.sha256(msgspec.json.encode(config, order="sorted"))
    digest.update((adapter / ADAPTER_WEIGHTS).read_bytes())
    return digest.hexdigest()[:NAME_DIGITS]


def is_unchanged(adapter: Path, name: str) -> bool:
    """Whether the files in a folder are those of the adapter of this name."""
    try:
        return name.endswith(f"-{content_hash(adapter)}")
    except (OSError, msgspec.DecodeError):  # they are not there, or not whole
        return False

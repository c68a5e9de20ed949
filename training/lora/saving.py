"""Saves adapters under content-hashed names, after checking them by vLLM's own rules."""

from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.machine.files import disk_errors, settle, staged_folder
from fourshot.engine.vllm_seams.adapter_check import check_adapter
from fourshot.training.lora.adapter_files import ADAPTER_CONFIG, content_hash, is_unchanged


def save_adapter(wrapped: Any, parent: Path, prefix: str) -> tuple[str, Path]:
    """Save a PEFT model's adapter as ``parent``/<prefix>-<hash>, and return the folder's name and path.

    A folder of that name with unchanged content is kept. The folder is created atomically. Raises AdapterError if vLLM
    would not load the adapter, and OSError if the disk is full.
    """
    with staged_folder(parent) as staged:
        _save(wrapped, staged)
        (staged / "README.md").unlink(missing_ok=True)  # PEFT's empty model card template
        _sort_config(staged / ADAPTER_CONFIG)
        check_adapter(staged)
        name = f"{prefix}-{content_hash(staged)}"
        if not is_unchanged(parent / name, name):
            settle(staged, parent / name, replace=True)
        return name, parent / name


def _sort_config(config_file: Path) -> None:
    """Sort the configuration: PEFT writes the target modules in the order of a set, which differs between processes."""
    config = msgspec.json.decode(config_file.read_bytes())
    config["target_modules"] = sorted(config["target_modules"])
    config_file.write_bytes(msgspec.json.format(msgspec.json.encode(config, order="sorted"), indent=2))


def _save(wrapped: Any, folder: Path) -> None:
    with disk_errors(folder.parent):
        wrapped.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)

"""vLLM's own check of an adapter folder, without starting an engine."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fourshot.engine.errors import AdapterError

LARGEST_RANK = 512  # the largest that vLLM has kernels for


def check_adapter(folder: Path) -> None:
    """Raise AdapterError, with vLLM's reason, if vLLM would refuse to load the adapter in ``folder``."""
    from vllm.lora.peft_helper import PEFTHelper

    try:
        helper = PEFTHelper.from_local_dir(str(folder), max_position_embeddings=None)
        helper.validate_legal(cast(Any, SimpleNamespace(max_lora_rank=LARGEST_RANK, bias_enabled=False)))
    except (ValueError, OSError) as error:
        raise AdapterError(f"vLLM would not load the adapter in {folder}: {error}") from error
    if not (folder / "adapter_model.safetensors").is_file():
        raise AdapterError(f"The adapter in {folder} has no adapter_model.safetensors. Save it as safetensors.")

"""vLLM's own check of an adapter folder, without starting an engine.

Relies on: ``PEFTHelper``, with which vLLM's worker reads an adapter's configuration. Without it, an adapter is checked
only when an engine loads it.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fourshot.engine.errors import AdapterError
from fourshot.engine.vllm_seams.contract import Seam

LARGEST_RANK = 512  # for which vLLM has kernels
SEAM = Seam(
    name="the check of an adapter's configuration",
    written_for=("0.26", "0.32"),
    relies_on=(
        "vllm.lora.peft_helper:PEFTHelper.from_local_dir",
        "vllm.lora.peft_helper:PEFTHelper.validate_legal(self, lora_config)",
    ),
    without="Adapters that vLLM cannot load are noticed only when they are loaded.",
)


def check_adapter(folder: Path) -> None:
    """Raise AdapterError, with vLLM's reason, if vLLM would reject the adapter in ``folder``.

    Also raised if its weights are not stored as safetensors.
    """
    if SEAM.holds():
        from vllm.lora.peft_helper import PEFTHelper

        try:
            helper = PEFTHelper.from_local_dir(str(folder), max_position_embeddings=None)
            helper.validate_legal(cast(Any, SimpleNamespace(max_lora_rank=LARGEST_RANK, bias_enabled=False)))
        except (ValueError, OSError) as error:
            raise AdapterError(f"vLLM cannot load the adapter in {folder}: {error}") from error
    if not (folder / "adapter_model.safetensors").is_file():
        raise AdapterError(f"The adapter in {folder} has no adapter_model.safetensors. Save it as safetensors.")

"""Decides when vLLM's LoRA arithmetic on the CPU is replaced by `grouped_lora`.

Replaces: ``CpuPlatform.get_punica_wrapper``, which names the class that multiplies adapters. vLLM up to 0.32 has two
faults there. A row without adapter silently gets another row's adapter, and the adapter's matrices are copied once per
token. The first fault is tested on a tensor of one element, so a vLLM that has fixed both is left unchanged.
``FOURSHOT_LORA_PLUGIN=0`` disables the replacement, and with it our reading of adapter files (`lora_files`).

Importing this module loads neither vllm nor torch.
"""

import os
from typing import Any

from fourshot.engine.vllm_seams import lora_files, lora_loads
from fourshot.engine.vllm_seams.contract import Seam, vllm_version

SWITCH = "FOURSHOT_LORA_PLUGIN"
WRAPPER = "fourshot.engine.vllm_seams.grouped_lora.GroupedPunicaWrapper"
SLOW_UP_TO = (0, 32)  # the newest vLLM whose CPU kernel is known to copy the adapter once per token

_PUNICA = "vllm.lora.punica_wrapper.punica_cpu:PunicaWrapperCPU"
_STACKED = "x, lora_a_stacked, lora_b_stacked, scale"
SEAM = Seam(
    name="our LoRA arithmetic on the CPU",
    written_for=("0.26", "0.32"),
    relies_on=(
        "vllm.platforms.cpu:CpuPlatform.get_punica_wrapper()",
        "vllm.lora.ops.torch_ops:bgmv_expand(inputs, lora_b_weights, output_tensor, lora_indices_tensor, add_inputs)",
        f"{_PUNICA}.add_lora_linear(self, y, {_STACKED}, output_slices, buffer, kwargs)",
        f"{_PUNICA}.add_lora_logits(self, y, {_STACKED}, buffer, kwargs)",
        f"{_PUNICA}.update_metadata(self, mapping, lora_index_to_id, max_loras, vocab_size, kwargs)",
        f"{_PUNICA}.token_lora_indices",
        f"{_PUNICA}.sampler_indices",
    ),
    without="Adapters are slower, and texts for the base model must not share a batch with texts for an adapter.",
)


def apply(enabled: bool) -> bool:
    """Apply our arithmetic, or remove it, for engines opened from now on. Returns whether it is applied.

    It is applied if this is vLLM's CPU build, `SWITCH` is not off, this vLLM needs it, and the seams hold.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return False
    from vllm.platforms.cpu import CpuPlatform

    if CpuPlatform.get_punica_wrapper.__func__ is not _wrapper:
        _original["get_punica_wrapper"] = CpuPlatform.get_punica_wrapper
    enabled = enabled and os.environ.get(SWITCH, "1") != "0"
    # The arithmetic must know when weights have changed, which `lora_loads` counts.
    put_in = enabled and SEAM.holds() and lora_loads.register() and (base_rows_get_an_adapter() or copies_per_token())
    CpuPlatform.get_punica_wrapper = classmethod(_wrapper) if put_in else _original["get_punica_wrapper"]
    lora_files.apply(put_in)
    return put_in


def base_rows_get_an_adapter() -> bool:
    """Whether this vLLM applies an adapter to a row without one (slot -1), tested on a tensor of one element.

    Source: vllm-project/vllm issue 48421.
    """
    import torch
    from vllm.lora.ops.torch_ops import bgmv_expand

    y = torch.zeros(1, 1)
    bgmv_expand(torch.ones(1, 1), torch.ones(1, 1, 1, 1), y, torch.tensor([-1]), True)
    return bool(y.any())


def copies_per_token() -> bool:
    """Whether this vLLM is one whose CPU kernel is known to copy the adapter once per token."""
    major, minor, *_ = vllm_version().split(".")
    return (int(major), int(minor)) <= SLOW_UP_TO


def _wrapper(platform: Any) -> str:
    return WRAPPER


_original: dict[str, Any] = {}

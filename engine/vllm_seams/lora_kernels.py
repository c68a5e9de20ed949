"""When vLLM's LoRA arithmetic on the CPU is replaced by `grouped_lora`'s.

Replaces: ``CpuPlatform.get_punica_wrapper``, which names the class that multiplies adapters. vLLM up to 0.32 has two
faults there: a row without adapter gets another row's, silently, and the adapter's matrices are copied once per token.
The first is tried on a tensor of one element, so a vLLM that has mended both is left alone. ``FOURSHOT_LORA_PLUGIN=0``
switches it off, and the reading of adapters' files (`lora_files`) with it.

Importing this module loads neither vllm nor torch.
"""

import os
from typing import Any

from fourshot.engine.vllm_seams import lora_files, lora_loads
from fourshot.engine.vllm_seams.contract import Seam, vllm_version

SWITCH = "FOURSHOT_LORA_PLUGIN"
WRAPPER = "fourshot.engine.vllm_seams.grouped_lora.GroupedPunicaWrapper"
SLOW_UP_TO = (0, 32)  # the newest vLLM whose CPU kernel was seen to copy the adapter once per token

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
    """Put our arithmetic in, or take it out again, for engines opened from now on. Returns whether it is in.

    It goes in where this is the CPU build, the switch is not off, this vLLM needs it and `SEAM` holds.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return False
    from vllm.platforms.cpu import CpuPlatform

    if CpuPlatform.get_punica_wrapper.__func__ is not _wrapper:
        _original["get_punica_wrapper"] = CpuPlatform.get_punica_wrapper
    enabled = enabled and os.environ.get(SWITCH, "1") != "0"
    # The arithmetic has to know when weights have changed: `lora_loads` counts it.
    put_in = enabled and SEAM.holds() and lora_loads.register() and (base_rows_get_an_adapter() or copies_per_token())
    CpuPlatform.get_punica_wrapper = classmethod(_wrapper) if put_in else _original["get_punica_wrapper"]
    lora_files.apply(put_in)
    return put_in


def base_rows_get_an_adapter() -> bool:
    """Whether this vLLM gives a row without adapter (slot -1) another row's adapter: tried on a tensor of one element.

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

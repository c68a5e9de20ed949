"""A vLLM general plugin: mends LoRA on the CPU (`lora_kernels`) and counts loads (`lora_loads`).

vLLM loads it in each of its processes through the entry point group ``vllm.general_plugins``; `VllmEngine` applies
it itself. ``FOURSHOT_LORA_PLUGIN=0`` switches it off. Importing this module does not load vllm.
"""

import multiprocessing
import os
from typing import Any

from fourshot.engine.processes import TOGETHER, die_with_parent
from fourshot.engine.vllm_seams import lora_loads

SWITCH = "FOURSHOT_LORA_PLUGIN"
WRAPPER = "fourshot.engine.vllm_seams.lora_kernels.GroupedPunicaWrapper"
SLOW_UP_TO = (0, 32)  # the newest vLLM whose CPU kernel was seen to copy the adapter once per token


def register() -> None:
    """The entry point."""
    apply(wanted=True)
    lora_loads.register()
    maker = multiprocessing.parent_process()
    if os.environ.get(TOGETHER) and maker is not None:
        die_with_parent()
        if os.getppid() != maker.pid:  # it ended before we asked
            os._exit(1)


def apply(wanted: bool) -> bool:
    """Put the mended arithmetic in, or take it out again, for engines opened from now on. Returns whether it is in.

    It goes in where this is the CPU build, the switch is not off, and this vLLM needs it.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return False
    from vllm.platforms.cpu import CpuPlatform

    if CpuPlatform.get_punica_wrapper.__func__ is not _wrapper:
        _original["get_punica_wrapper"] = CpuPlatform.get_punica_wrapper
    needed = wanted and os.environ.get(SWITCH, "1") != "0" and (base_rows_get_an_adapter() or copies_per_token())
    CpuPlatform.get_punica_wrapper = classmethod(_wrapper) if needed else _original["get_punica_wrapper"]
    lora_loads.register()  # the mended arithmetic asks it when weights have changed
    return needed


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
    import vllm

    return tuple(vllm.__version_tuple__[:2]) <= SLOW_UP_TO


def _wrapper(platform: Any) -> str:
    return WRAPPER


_original: dict[str, Any] = {}

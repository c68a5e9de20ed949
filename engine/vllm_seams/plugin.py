"""A vLLM general plugin: our LoRA arithmetic and kernels on the CPU, counts of adapter loads, the loan of pinned slots.

These are `lora_kernels`, `cpu_eager`, `lora_loads` and `lora_pins`.

vLLM loads it in each of its processes through the entry point group ``vllm.general_plugins``. `VllmEngine` applies all
but the last itself. Importing this module does not load vllm.
"""

import multiprocessing
import os

from fourshot.engine.machine.parent import die_with_parent
from fourshot.engine.machine.processes import TOGETHER
from fourshot.engine.vllm_seams import cpu_eager, lora_kernels, lora_loads, lora_pins


def register() -> None:
    """Apply the seams, as the entry point that vLLM calls in each of its processes.

    If `engine.machine.processes.TOGETHER` is set, a child process of vLLM will also end with its parent.
    """
    if lora_kernels.apply(enabled=True):
        cpu_eager.apply()
    lora_loads.register()
    lora_pins.register()
    maker = multiprocessing.parent_process()
    if os.environ.get(TOGETHER) and maker is not None:
        die_with_parent(maker.pid)

"""A vLLM general plugin: our LoRA arithmetic and kernels on the CPU, a count of adapter loads, and pins that give way.

These are `lora_kernels`, `cpu_eager`, `lora_loads` and `lora_pins`.

vLLM loads it in each of its processes through the entry point group ``vllm.general_plugins``; `VllmEngine` applies the
same itself. Importing this module does not load vllm.
"""

import multiprocessing
import os

from fourshot.engine.machine.parent import die_with_parent
from fourshot.engine.machine.processes import TOGETHER
from fourshot.engine.vllm_seams import cpu_eager, lora_kernels, lora_loads, lora_pins


def register() -> None:
    """The entry point."""
    if lora_kernels.apply(enabled=True):
        cpu_eager.apply()
    lora_loads.register()
    lora_pins.register()
    maker = multiprocessing.parent_process()
    if os.environ.get(TOGETHER) and maker is not None:
        die_with_parent(maker.pid)

"""Imports everything that an engine needs, and does nothing else, for `engine.machine.fork_server`.

For the CPU only. Modules of vLLM that another version does not have are skipped; a fork then imports what it needs.
"""

import contextlib
from importlib import import_module

from fourshot.engine.vllm_start import keep_quiet

LATER = (  # modules that vLLM imports only when it opens an engine
    "vllm._custom_ops",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.lora.worker_manager",
    "vllm.model_executor.model_loader.default_loader",
    "vllm.model_executor.models.llama",
    "compressed_tensors",
)

keep_quiet()
from vllm import EngineArgs, LLMEngine, SamplingParams  # noqa: E402, F401
from vllm.platforms import current_platform  # noqa: E402

import fourshot.engine.opening  # noqa: E402
import fourshot.engine.vllm_engine  # noqa: E402
import fourshot.engine.vllm_seams.cpu_sampling  # noqa: E402, F401

assert current_platform.is_cpu(), "copies of a process are for the CPU alone"
for name in LATER:
    with contextlib.suppress(ImportError):
        import_module(name)

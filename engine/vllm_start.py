"""How vLLM is started: environment, threads, arguments. What `VllmEngine` runs, without what it does with it.

Everything is set here rather than at import, and only when an engine is opened.
"""

import os
from typing import TYPE_CHECKING, Any

from fourshot.engine.collector import collector_paused
from fourshot.engine.core import EngineSettings
from fourshot.engine.vllm_scoring import MAX_LABEL_IDS
from fourshot.engine.vllm_seams import in_process, lora_kernels

if TYPE_CHECKING:
    from vllm import LLMEngine

BLOCK_TOKENS = 32  # the CPU default of 128 is longer than most shared prompts, which would then never be cached
# Per step; prompts are never cut, so it is also at least max_model_len. On two cores steps of 2,048 tokens are as fast
# as longer ones, with adapters faster (what is added to stays in the cache), and who comes next waits half as long.
CPU_BATCHED_TOKENS, GPU_BATCHED_TOKENS = 2048, 8192


def start(settings: EngineSettings) -> "LLMEngine":
    """Start vLLM in this process. On the CPU all cores compute; vLLM's own multi-process start idles one of them."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with collector_paused():
        from vllm import EngineArgs, LLMEngine
        from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    if on_cpu:
        from fourshot.engine.vllm_seams import cpu_sampling

        cpu_sampling.apply()
        in_process.compute_on_all_cores()
    arguments = EngineArgs(**engine_arguments(settings, on_cpu))
    lora_kernels.apply(wanted=settings.lora_plugin)  # after EngineArgs, which loads installed plugins, this one too
    return LLMEngine.from_engine_args(arguments)


def engine_arguments(settings: EngineSettings, on_cpu: bool) -> dict[str, Any]:
    """The arguments of vLLM's ``EngineArgs``."""
    arguments: dict[str, Any] = {
        "model": settings.model,
        "dtype": "auto",
        "seed": settings.seed,
        "load_format": settings.load_format,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        # A prompt that is prefilled in pieces rewinds its random generator at each piece, which a CPU generator
        # cannot do: the engine dies. Whole prompts only, so that every request can have a seed.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(settings.max_model_len, CPU_BATCHED_TOKENS if on_cpu else GPU_BATCHED_TOKENS),
        "enable_prefix_caching": settings.prefix_caching,
        "max_logprobs": MAX_LABEL_IDS,
        "generation_config": "vllm",  # not the checkpoint's own sampling defaults
        "distributed_executor_backend": "uni",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if on_cpu:
        arguments |= {"block_size": BLOCK_TOKENS, "kv_cache_memory_bytes": settings.kv_cache_bytes}
        if not settings.compile:
            arguments["enforce_eager"] = True
    elif settings.gpu_kv_cache_bytes:  # several engines may share the card: none looks for a share of its own
        arguments |= {"kv_cache_memory_bytes": settings.gpu_kv_cache_bytes, "gpu_memory_utilization": 0.05}
    if settings.max_loras:
        arguments |= {
            "enable_lora": True,
            "max_loras": settings.max_loras,
            "max_cpu_loras": max(settings.max_loras, settings.memory_loras),
            "max_lora_rank": settings.max_lora_rank,
        }
    return arguments

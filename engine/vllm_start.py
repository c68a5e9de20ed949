"""How vLLM is started: environment, threads, arguments. What `VllmEngine` runs, without what it does with it.

Everything is set here rather than at import, and only when an engine is opened.
"""

import os
from typing import TYPE_CHECKING, Any

from fourshot.engine.alignment import BLOCK_TOKENS
from fourshot.engine.core import EngineSettings
from fourshot.engine.machine.collector import collector_paused
from fourshot.engine.machine.gpus import check_gpus, free_share, gpus
from fourshot.engine.vllm_scoring import MAX_LABEL_IDS, check_scoring
from fourshot.engine.vllm_seams import cpu_eager, in_process, lora_kernels

if TYPE_CHECKING:
    from vllm import LLMEngine

# In the environment before vLLM is imported, where the user has not said otherwise.
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
# Per step; prompts are never cut, so it is also at least max_model_len. On two cores steps of 2,048 tokens are as fast
# as longer ones, with adapters faster (what is added to stays in the cache), and who comes next waits half as long.
CPU_BATCHED_TOKENS = 2048
# Without torch.compile, and with graphs of the steps that only decode. On an H200, with a 7B shape, an engine of 32
# adapters so starts in 46 s instead of 101, and answers as much when saturated, which a run's stages are. A lone prompt
# takes 61 ms instead of 11: a server compiles (docs/benchmarks.md, "On a GPU").
GPU_QUICK_START = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
VLLM_SHARE = 0.92  # of all of a GPU's memory: vLLM takes it, and does not start where less is free


def keep_quiet() -> None:
    """Before vLLM is imported, in a process of ours: it prints errors alone and reports its use to nobody."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def keep_to_sizes() -> None:
    """Have vLLM take the size of the KV cache that it is given; a variable that its documents once named overrules it.

    Source: vllm/platforms/cpu.py, "Legacy setting".
    """
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)


def start(settings: EngineSettings) -> "LLMEngine":
    """Start vLLM in this process. On the CPU all cores compute; vLLM's own multi-process start idles one of them."""
    check_gpus(settings.gpus)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    keep_quiet()
    keep_to_sizes()
    with collector_paused():
        from vllm import EngineArgs, LLMEngine, SamplingParams
        from vllm.platforms import current_platform

    check_scoring(SamplingParams)
    on_cpu = current_platform.is_cpu()
    if on_cpu:
        from fourshot.engine.vllm_seams import cpu_sampling

        cpu_sampling.apply()
        cpu_eager.apply()
        in_process.compute_on_all_cores()
    arguments = EngineArgs(**engine_arguments(settings, on_cpu))
    lora_kernels.apply(enabled=settings.lora_plugin)  # after EngineArgs, which loads installed plugins, this one too
    return in_process.opened(LLMEngine, arguments)


def engine_arguments(settings: EngineSettings, on_cpu: bool) -> dict[str, Any]:
    """The arguments of vLLM's ``EngineArgs``."""
    arguments: dict[str, Any] = {
        "model": settings.model,
        "dtype": "auto",
        "seed": settings.seed,
        "load_format": settings.load_format,
        "max_model_len": settings.max_model_len,
        "enable_prefix_caching": settings.prefix_caching,
        "max_logprobs": MAX_LABEL_IDS,
        "generation_config": "vllm",  # not the checkpoint's own sampling defaults
        "distributed_executor_backend": "uni",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    arguments |= _on_the_cpu(settings) if on_cpu else _on_a_gpu(settings)
    if settings.max_loras:
        arguments |= {
            "enable_lora": True,
            "max_loras": settings.max_loras,
            "max_cpu_loras": max(settings.max_loras, settings.memory_loras),
            "max_lora_rank": settings.max_lora_rank,
        }
    return arguments


def _on_the_cpu(settings: EngineSettings) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "max_num_seqs": settings.max_num_seqs,
        # A prompt that is prefilled in pieces rewinds its random generator at each piece, which a CPU generator
        # cannot do: the engine dies. Whole prompts only, so that every request can have a seed.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(settings.max_model_len, settings.max_num_seqs, CPU_BATCHED_TOKENS),
        "block_size": BLOCK_TOKENS,
        "kv_cache_memory_bytes": settings.kv_cache_bytes,
    }
    return arguments if settings.compile else {**arguments, "enforce_eager": True}


def _on_a_gpu(settings: EngineSettings) -> dict[str, Any]:
    """What is not given is vLLM's own choice for the card, chunked prefill too. Tests check names; an H200 ran it."""
    arguments: dict[str, Any] = {}
    if settings.gpus > 1:  # a process for each
        arguments |= {"tensor_parallel_size": settings.gpus, "distributed_executor_backend": "mp"}
    if settings.gpu_max_num_seqs:
        arguments["max_num_seqs"] = settings.gpu_max_num_seqs
    if not settings.compile:
        arguments["compilation_config"] = GPU_QUICK_START
    if settings.gpu_kv_cache_bytes:  # several engines may share the card: none looks for a share of its own
        arguments |= {"kv_cache_memory_bytes": settings.gpu_kv_cache_bytes, "gpu_memory_utilization": 0.05}
    elif (share := free_share(gpus(os.environ))) < VLLM_SHARE:
        arguments["gpu_memory_utilization"] = share
    return arguments

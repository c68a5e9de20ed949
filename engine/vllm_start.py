"""How `VllmEngine` starts vLLM: environment, threads, arguments. All is set when an engine is opened, not at import."""

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

# Environment variables set before vLLM is imported, unless the user has set them.
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
# Per step; prompts are never split, so also at least max_model_len. On two cores, 2,048 tokens are as fast as more.
# With adapters they are faster (the output stays in the processor's cache), and the next request waits half as long.
CPU_BATCHED_TOKENS = 2048
# Without torch.compile, and with CUDA graphs for steps that only decode. On an H200, with a 7B shape, an engine of 32
# adapters then starts in 46 s instead of 101. Saturated, as in a run's stages, its throughput is the same. A prompt on
# its own takes 61 ms instead of 11, so a server compiles (docs/benchmarks.md, "On a GPU").
GPU_QUICK_START = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
VLLM_SHARE = 0.92  # of a GPU's total memory: vLLM's default, with which it does not start if less is free


def keep_quiet() -> None:
    """Make vLLM print only errors and send no usage statistics; before it is imported, in a process of our own."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def keep_to_sizes() -> None:
    """Make vLLM use the KV cache size that it is given: a variable that it documented earlier would override it.

    Source: vllm/platforms/cpu.py, "Legacy setting".
    """
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)


def start(settings: EngineSettings) -> "LLMEngine":
    """Start vLLM in this process. On the CPU, all cores compute; vLLM's own multi-process start leaves one idle."""
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
    lora_kernels.apply(enabled=settings.lora_plugin)  # after EngineArgs, which loads plugins, including ours
    return in_process.opened(LLMEngine, arguments)


def engine_arguments(settings: EngineSettings, on_cpu: bool) -> dict[str, Any]:
    """Return the arguments of vLLM's ``EngineArgs``."""
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
        # For a prompt that is prefilled in chunks, vLLM rewinds its random generator at each chunk. A CPU generator
        # cannot be rewound, and the engine would end. So prompts are not split, and every request can have a seed.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(settings.max_model_len, settings.max_num_seqs, CPU_BATCHED_TOKENS),
        "block_size": BLOCK_TOKENS,
        "kv_cache_memory_bytes": settings.kv_cache_bytes,
    }
    return arguments if settings.compile else {**arguments, "enforce_eager": True}


def _on_a_gpu(settings: EngineSettings) -> dict[str, Any]:
    """Return the arguments for a GPU; all others are vLLM's defaults. Tests check their names; they ran on an H200."""
    arguments: dict[str, Any] = {}
    if settings.gpus > 1:  # one process per GPU
        arguments |= {"tensor_parallel_size": settings.gpus, "distributed_executor_backend": "mp"}
    if settings.gpu_max_num_seqs:
        arguments["max_num_seqs"] = settings.gpu_max_num_seqs
    if not settings.compile:
        arguments["compilation_config"] = GPU_QUICK_START
    if settings.gpu_kv_cache_bytes:  # several engines may share the GPU, so none claims a share of its memory
        arguments |= {"kv_cache_memory_bytes": settings.gpu_kv_cache_bytes, "gpu_memory_utilization": 0.05}
    elif (share := free_share(gpus(os.environ))) < VLLM_SHARE:
        arguments["gpu_memory_utilization"] = share
    return arguments

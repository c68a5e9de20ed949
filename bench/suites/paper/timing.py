"""What the paper shows besides accuracies: the time per text, and the diversity of the texts (its figures 4 and 7).

Times are measured with transformers, one prompt at a time and in batches: zero-shot, in context, LoRA, LoRA merged.
They are of one forward pass per prompt and the likeliest next token, without a prefix cache. This is less work than
generating an answer, for all methods alike. The adapter has random weights, which cost as much as trained ones. Times
are medians over the calls, so single disturbances do not count.
"""

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from fourshot.engine.checkpoints.models import resolve_model
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.synthesis.diversity import unique_trigram_curve, word_frequencies
from fourshot.pipeline.task import Task
from fourshot.pipeline.task_data import TaskData

BATCH = 16
MERGED = "lora_merged"  # the adapter added to the base's weights
TEXTS_OF = "fourshot"
NUM_POINTS = 40
MAX_TEXTS = 2000  # per side
WARM_UP = 2  # unmeasured calls per method


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Time of one method at one batch size."""

    task: str
    method: str  # of `pipeline.cells.methods`, or `MERGED`
    batch: int  # prompts at a time
    num_texts: int
    s_per_text: float  # median over calls of a call's seconds divided by its texts
    prompt_tokens: float  # mean per text, without padding


def measure_timings(
    model_path: str, task: str, prompts: list[str], in_context: list[str], batches: tuple[int, ...] = (1, BATCH)
) -> list[Timing]:
    """Load the model and time all methods at all batch sizes.

    ``prompts``: for zero-shot and LoRA. ``in_context``: prompts of the same texts with shots.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from fourshot.engine.machine.gpus import torch_device
    from fourshot.engine.machine.threads import available_cores
    from fourshot.engine.tokens import load_tokenizer
    from fourshot.engine.transformers_engine import quick_output
    from fourshot.serving.testing.adapters import make_adapter, task_of

    torch.set_num_threads(available_cores())
    device = torch_device()
    tokenizer = load_tokenizer(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype="auto", trust_remote_code=False).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        adapter = make_adapter(Path(folder), task_of("timed"), base=resolve_model(model_path))

        def timed(method: str, model: Any, texts: Sequence[str]) -> list[Timing]:
            return [_time(model, tokenizer, task, method, texts, batch) for batch in batches]

        timings = timed("zero_shot", model, prompts) + timed("icl", model, in_context)
        # In the base's number type, as in vLLM: by default, PEFT computes bfloat16 adapters in float32.
        adapted = PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False).to(device).eval()
        quick_output(adapted)
        timings += timed("lora", adapted, prompts)
        merged = adapted.merge_and_unload()
        quick_output(merged)
        return timings + timed(MERGED, merged, prompts)


def _time(model: Any, tokenizer: Any, task: str, method: str, prompts: Sequence[str], batch: int) -> Timing:
    from fourshot.engine.tokens import encode_prompts

    ids = encode_prompts(tokenizer, prompts)
    by_length = sorted(ids, key=len)  # batches of similar lengths, as in an evaluation
    chunks = [by_length[start : start + batch] for start in range(0, len(by_length), batch)]
    for chunk in chunks[:WARM_UP]:
        _likeliest_tokens(model, tokenizer, chunk)
    times = []
    for chunk in chunks:
        started = time.perf_counter()
        _likeliest_tokens(model, tokenizer, chunk)
        times.append((time.perf_counter() - started) / len(chunk))
    return Timing(
        task=task,
        method=method,
        batch=batch,
        num_texts=len(ids),
        s_per_text=median(times),
        prompt_tokens=sum(map(len, ids)) / len(ids),
    )


def _likeliest_tokens(model: Any, tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the likeliest next token of each row, on the host, so that a call's time includes the transfer."""
    import torch

    longest, pad = max(map(len, rows)), tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1)
    answers: list[int] = output.logits[:, -1].argmax(dim=-1).tolist()
    return answers


class CountedTexts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts for one task and seed. Sides: "real", "written" (generated), "kept"; real texts are as many as written."""

    task: str
    seed: int
    num: dict[str, int]  # side -> texts
    trigrams: dict[str, tuple[tuple[int, float], ...]]  # side -> (number of texts, distinct tri-grams)
    words: dict[str, dict[str, int]]  # side -> word -> count


def count_texts(task: Task, folder: Path, seed: int) -> CountedTexts | None:
    """Count the texts of a finished comparison in ``folder``; None if it has no texts of the method `TEXTS_OF`."""
    pairs = finished_pairs(RunFolder(folder / f"seed{seed}" / TEXTS_OF))
    if not pairs:
        return None
    real = [example.text for example in TaskData(task).train]
    sides = {
        "real": sampled(real, min(len(pairs), MAX_TEXTS), seed),
        "written": sampled([candidate.text for candidate, _ in pairs], MAX_TEXTS, seed),
        "kept": sampled([candidate.text for candidate, verdict in pairs if verdict.kept], MAX_TEXTS, seed),
    }
    sides = {side: texts for side, texts in sides.items() if texts}
    return CountedTexts(
        task=task.name,
        seed=seed,
        num={side: len(texts) for side, texts in sides.items()},
        trigrams={side: _curve(texts) for side, texts in sides.items()},
        words={side: word_frequencies(texts) for side, texts in sides.items()},
    )


def sampled(texts: Sequence[str], limit: int, seed: int) -> list[str]:
    """Return at most ``limit`` of the texts, sampled with ``seed``."""
    return list(texts) if len(texts) <= limit else random.Random(seed).sample(list(texts), limit)


def _curve(texts: Sequence[str]) -> tuple[tuple[int, float], ...]:
    sizes = sorted({round(len(texts) * step / NUM_POINTS) for step in range(NUM_POINTS + 1)})
    return tuple((size, round(value, 2)) for size, value in zip(sizes, unique_trigram_curve(texts, sizes), strict=True))

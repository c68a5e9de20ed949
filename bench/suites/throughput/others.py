"""Ways of drawing that are not ours: transformers in batches, and distilabel. Each as its users would have it."""

import os
import time
from collections.abc import Sequence
from typing import Any

from fourshot.bench.suites.throughput.orders import Draw, Drawn, Draws, WayOrder, drawn_from
from fourshot.engine.threads import available_cores
from fourshot.engine.tokens import load_tokenizer
from fourshot.engine.vllm_start import engine_arguments


def transformers_batches(order: WayOrder) -> Draw:
    """``generate`` in batches, padded on the left, sorted by length; a row ends with a token that ends a line.

    Source: Patwa et al. 2024, section 4 (Hugging Face generation); batches are ours.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    torch.set_num_threads(available_cores())
    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer: Any = load_tokenizer(order.engine.model)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(order.engine.model, dtype=torch.bfloat16).to(device).eval()

    def draw(draws: Draws) -> Drawn:
        sampling = draws.sampling
        ends = [tokenizer.eos_token_id, *_tokens_with(tokenizer, sampling.stop)]
        config = GenerationConfig(
            do_sample=True,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        rows: dict[int, tuple[str, int, str]] = {}
        prompt_tokens, first_s = 0, 0.0
        started = time.perf_counter()
        by_length = sorted(range(len(draws.prompts)), key=lambda index: len(draws.prompts[index]))
        for start in range(0, len(by_length), draws.batch):
            chunk = by_length[start : start + draws.batch]
            batch = tokenizer([draws.prompts[index] for index in chunk], return_tensors="pt", padding=True).to(device)
            with torch.inference_mode():
                made = model.generate(**batch, generation_config=config)
            prompt_tokens += int(batch["attention_mask"].sum())
            for index, said in zip(chunk, made[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                rows[index] = _ended(tokenizer, said, ends, sampling.stop)
            first_s = first_s or time.perf_counter() - started
        seconds = time.perf_counter() - started
        texts = [rows[index] for index in range(len(rows))]
        return drawn_from(draws, texts, seconds, first_s=first_s, prompt_tokens=prompt_tokens, cached_tokens=0)

    return draw


def distilabel(order: WayOrder) -> Draw:
    """distilabel's ``vLLM`` over the same texts as prompts, opened with our settings."""
    os.environ |= {"VLLM_PLUGINS": "", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    from distilabel.models.llms import vLLM
    from vllm.platforms import current_platform

    arguments = {**engine_arguments(order.engine, current_platform.is_cpu()), **order.vllm}
    own = {name: arguments.pop(name) for name in ("model", "dtype", "seed")}
    llm = vLLM(**own, extra_kwargs=arguments, disable_cuda_device_placement=True)
    llm.load()

    def draw(draws: Draws) -> Drawn:
        sampling = draws.sampling
        started = time.perf_counter()
        made = llm.generate(
            inputs=list(draws.prompts),
            max_new_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            stop=list(sampling.stop),
        )
        seconds = time.perf_counter() - started
        texts = []
        for one in made:
            tokens = one["statistics"]["output_tokens"][0]
            texts.append((one["generations"][0] or "", tokens, "length" if tokens >= sampling.max_tokens else "stop"))
        prompt_tokens = sum(one["statistics"]["input_tokens"][0] for one in made)
        return drawn_from(draws, texts, seconds, first_s=seconds, prompt_tokens=prompt_tokens, cached_tokens=0)

    return draw


def _tokens_with(tokenizer: Any, ends: Sequence[str]) -> list[int]:
    """Tokens that hold one of ``ends``: a text that reaches one is over."""
    return [token for token in range(len(tokenizer)) if any(end in tokenizer.decode([token]) for end in ends)]


def _ended(tokenizer: Any, said: list[int], ends: Sequence[int], stops: Sequence[str]) -> tuple[str, int, str]:
    """A row without what follows its end: text, tokens with the one that ended it, and why it ended."""
    found = next((index for index, token in enumerate(said) if token in ends), None)
    if found is None:
        return tokenizer.decode(said, skip_special_tokens=True), len(said), "length"
    text = tokenizer.decode(said[: found + 1], skip_special_tokens=True)
    for stop in stops:
        text = text.partition(stop)[0]
    return text, found + 1, "stop"

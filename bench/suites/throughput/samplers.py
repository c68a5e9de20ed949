"""Samplers of texts: vLLM alone, fourshot, a complete corpus, transformers in batches, distilabel.

Each function opens a sampler in a separate process (`bench.core.processes.OpenerProcess`) and returns it. All use the
same prompts and sampling, and return the texts as generated. A text ends at the end of its line.
"""

import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from fourshot.bench.core.processes import peak_bytes
from fourshot.engine.core import EngineSettings, Sampling
from fourshot.engine.machine.gpus import torch_device
from fourshot.engine.machine.threads import available_cores
from fourshot.engine.tokens import encode_prompts, load_tokenizer
from fourshot.engine.vllm_start import engine_arguments
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example, Task

BARE_VLLM = {"VLLM_PLUGINS": "", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}


class SamplerSetup(msgspec.Struct, frozen=True, kw_only=True):
    """The settings with which a sampler is opened."""

    engine: EngineSettings
    vllm: dict[str, Any] = {}  # for vLLM alone: arguments that replace ours


class DrawRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The texts to generate. ``prompts`` are those that `pipeline.loop.rounds.draw_round` makes for this round."""

    task: Task
    shots: tuple[Example, ...]
    settings: RunSettings
    round_number: int
    prompts: tuple[str, ...]
    labels: tuple[str, ...]  # the intended class of each prompt
    sampling: Sampling
    batch: int = 0  # batch size of transformers
    folder: str = ""  # folder of a corpus


class SampledText(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One generated text."""

    label: str
    text: str
    num_tokens: int  # including the token that ended it
    finish_reason: str


class DrawResult(msgspec.Struct, frozen=True, kw_only=True):
    """The generated texts, with times and token counts."""

    seconds: float
    first_s: float  # until the caller had the first text
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    texts: tuple[SampledText, ...] = ()
    kept: int = -1  # texts that a corpus kept; -1: not judged yet
    drawn: int = 0  # texts that a corpus generated
    start_s: float = 0.0  # start of a corpus's engine
    peak_bytes: int = 0  # peak memory of the process so far; for a corpus, plus that of its engine's process

    @property
    def num_texts(self) -> int:
        return self.drawn or len(self.texts)


Sampler = Callable[[DrawRequest], DrawResult]


def vllm_alone(setup: SamplerSetup) -> Sampler:
    """Sample with ``vllm.LLM``: one ``generate`` over prepared token ids; no plugin, seeds or log-probabilities."""
    os.environ |= BARE_VLLM
    import torch
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform

    torch.set_num_threads(available_cores())  # vLLM forbids it later
    tokenizer = load_tokenizer(setup.engine.model)
    llm = LLM(**{**engine_arguments(setup.engine, current_platform.is_cpu()), **setup.vllm})

    def draw(request: DrawRequest) -> DrawResult:
        prompts = [{"prompt_token_ids": ids} for ids in encode_prompts(tokenizer, request.prompts)]
        params = SamplingParams(**_sampling(request, "max_tokens"), stop=list(request.sampling.stop))
        llm.reset_prefix_cache()
        started = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        completions = [output.outputs[0] for output in outputs]
        return _result(
            request,
            [(completion.text, len(completion.token_ids), completion.finish_reason) for completion in completions],
            seconds,
            prompt_tokens=sum(len(output.prompt_token_ids) for output in outputs),
            cached_tokens=sum(output.num_cached_tokens or 0 for output in outputs),
        )

    return draw


def our_sampler(setup: SamplerSetup) -> Sampler:
    """Sample with `draw_round`, including prompts, token ids, seeds, log-probabilities, cleaned texts and lineage."""
    from fourshot.engine.opening import open_engine
    from fourshot.pipeline.loop.rounds import draw_round

    engine = open_engine(setup.engine)

    def draw(request: DrawRequest) -> DrawResult:
        engine.reset_prefix_cache()
        before, task = engine.stats(), request.task
        started = time.perf_counter()
        texts = draw_round(engine, task, request.shots, request.settings, request.round_number, task.label_names)
        seconds, ran = time.perf_counter() - started, engine.stats().since(before)
        return _result(
            request,
            [(candidate.text, candidate.num_tokens, candidate.finish_reason) for candidate in texts],
            seconds,
            prompt_tokens=ran.prompt_tokens,
            cached_tokens=ran.cached_tokens,
        )

    return draw


def corpus(setup: SamplerSetup) -> Sampler:
    """Run `fourshot corpus` into a folder. Its time is from its engine being ready to the end of the command."""
    from fourshot.pipeline.corpus import filling
    from fourshot.pipeline.corpus.folder import CorpusFolder
    from fourshot.pipeline.corpus.run import CorpusRequest, do_corpus
    from fourshot.pipeline.events import Event
    from fourshot.pipeline.loop.child import READY

    def draw(request: DrawRequest) -> DrawResult:
        first: list[float] = []

        def on_event(event: Event) -> None:
            if event.unit == "rows" and event.done and not first:
                first.append(time.perf_counter())

        folder, tasks = Path(request.folder), {request.task.name: request.task}
        began = time.perf_counter()
        with patch.object(filling, "COMPILE_FROM_ROWS", 0):  # compile the engine, as for a large corpus
            summary = do_corpus(CorpusRequest(tasks, setup.engine.model, folder, request.settings), on_event)
        ended = time.perf_counter()
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        ready = next((float(line.removeprefix(READY)) for line in lines if line.startswith(READY)), began)
        units = [unit for shard in CorpusFolder(folder).journal() for unit in shard.units]
        return DrawResult(
            seconds=ended - ready,
            first_s=first[0] - ready,
            prompt_tokens=summary.rates.prompt_tokens,
            cached_tokens=round(summary.rates.prompt_tokens * (summary.rates.cached_share or 0)),
            output_tokens=sum(unit.output_tokens for unit in units),
            kept=summary.rows,
            drawn=sum(unit.draws for unit in units),
            start_s=ready - began,
            peak_bytes=peak_bytes() + 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        )

    return draw


def transformers_batches(setup: SamplerSetup) -> Sampler:
    """Sample with ``generate`` in batches sorted by length, padded on the left; a token that ends a line ends a row.

    Source: Patwa et al. 2024, section 4 (Hugging Face generation); batches are ours.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    torch.set_num_threads(available_cores())
    logging.disable_progress_bar()
    device = torch_device()
    tokenizer: Any = load_tokenizer(setup.engine.model)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = (
        AutoModelForCausalLM.from_pretrained(setup.engine.model, dtype=torch.bfloat16, trust_remote_code=False)
        .to(device)
        .eval()
    )

    def draw(request: DrawRequest) -> DrawResult:
        stops = request.sampling.stop
        # Any token that contains a stop string ends the text.
        over = (n for n in range(len(tokenizer)) if any(stop in tokenizer.decode([n]) for stop in stops))
        ends = [tokenizer.eos_token_id, *over]
        config = GenerationConfig(
            do_sample=True,
            **_sampling(request, "max_new_tokens"),
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts: dict[int, tuple[str, int, str]] = {}
        prompt_tokens, first_s = 0, 0.0
        started = time.perf_counter()
        by_length = sorted(range(len(request.prompts)), key=lambda index: len(request.prompts[index]))
        for start in range(0, len(by_length), request.batch):
            chunk = by_length[start : start + request.batch]
            prompts = [request.prompts[index] for index in chunk]
            inputs = tokenizer(prompts, return_tensors="pt", padding=True).to(device)
            with torch.inference_mode():
                generated = model.generate(**inputs, generation_config=config)
            prompt_tokens += int(inputs["attention_mask"].sum())
            for index, row in zip(chunk, generated[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                texts[index] = _until_its_end(tokenizer, row, ends, stops)
            first_s = first_s or time.perf_counter() - started
        seconds = time.perf_counter() - started
        in_order = [texts[index] for index in range(len(texts))]
        return _result(request, in_order, seconds, first_s=first_s, prompt_tokens=prompt_tokens)

    return draw


def distilabel(setup: SamplerSetup) -> Sampler:
    """Sample with distilabel's ``vLLM``, with the same prompts and our engine settings."""
    os.environ |= BARE_VLLM
    from distilabel.models.llms import vLLM
    from vllm.platforms import current_platform

    arguments = {**engine_arguments(setup.engine, current_platform.is_cpu()), **setup.vllm}
    engine_fields = {name: arguments.pop(name) for name in ("model", "dtype", "seed")}
    llm = vLLM(**engine_fields, extra_kwargs=arguments, disable_cuda_device_placement=True)
    llm.load()

    def draw(request: DrawRequest) -> DrawResult:
        started = time.perf_counter()
        stops = list(request.sampling.stop)
        outputs = llm.generate(inputs=list(request.prompts), **_sampling(request, "max_new_tokens"), stop=stops)
        seconds = time.perf_counter() - started
        texts = []
        for output in outputs:
            tokens = output["statistics"]["output_tokens"][0]
            reason = "length" if tokens >= request.sampling.max_tokens else "stop"
            texts.append((output["generations"][0] or "", tokens, reason))
        prompt_tokens = sum(output["statistics"]["input_tokens"][0] for output in outputs)
        return _result(request, texts, seconds, prompt_tokens=prompt_tokens)

    return draw


def _sampling(request: DrawRequest, max_tokens: str) -> dict[str, Any]:
    """Return the request's sampling as keywords; ``max_tokens``: the library's name of that parameter."""
    fields = {name: getattr(request.sampling, name) for name in ("temperature", "top_k", "top_p")}
    return {**fields, max_tokens: request.sampling.max_tokens}


def _result(
    request: DrawRequest,
    texts: Sequence[tuple[str, int, str]],
    seconds: float,
    *,
    prompt_tokens: int,
    cached_tokens: int = 0,
    first_s: float = 0.0,
) -> DrawResult:
    """Make the result. ``texts``: (text, tokens, finish reason) per prompt. ``first_s``: 0 if all came together."""
    return DrawResult(
        seconds=seconds,
        first_s=first_s or seconds,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        output_tokens=sum(tokens for _, tokens, _ in texts),
        texts=tuple(
            SampledText(label=label, text=text, num_tokens=tokens, finish_reason=reason)
            for label, (text, tokens, reason) in zip(request.labels, texts, strict=True)
        ),
        peak_bytes=peak_bytes(),
    )


def _until_its_end(tokenizer: Any, row: list[int], ends: Sequence[int], stops: Sequence[str]) -> tuple[str, int, str]:
    """Cut a row at its end. Return its text, its number of tokens including the ending one, and the finish reason."""
    end = next((index for index, token in enumerate(row) if token in ends), None)
    if end is None:
        return tokenizer.decode(row, skip_special_tokens=True), len(row), "length"
    text = tokenizer.decode(row[: end + 1], skip_special_tokens=True)
    for stop in stops:
        text = text.partition(stop)[0]
    return text, end + 1, "stop"


OPENERS: dict[str, Callable[[SamplerSetup], Sampler]] = {
    "vllm": vllm_alone,
    "ours": our_sampler,
    "transformers": transformers_batches,
    "distilabel": distilabel,
    "corpus": corpus,
}

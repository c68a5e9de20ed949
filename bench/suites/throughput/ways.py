"""Ways of drawing texts, each in a process of its own: vLLM alone, ours, a whole corpus, and those of others.

    python -m fourshot.bench.suites.throughput.ways      reads a `WayOrder`, then `Draws`, one JSON document per line

Each gets the same prompts and the same sampling, and gives the texts back as they were said. A text ends with its line.
"""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from fourshot.bench.core.old_processes import lines_in_and_out
from fourshot.bench.suites.throughput.orders import Draw, Drawn, Draws, Ready, WayOrder, drawn_from, peak_bytes
from fourshot.bench.suites.throughput.others import distilabel, transformers_batches
from fourshot.engine.opening import open_engine
from fourshot.engine.threads import available_cores
from fourshot.engine.tokens import encode_prompts, load_tokenizer
from fourshot.engine.vllm_start import engine_arguments


def vllm_alone(order: WayOrder) -> Draw:
    """``vllm.LLM`` and one ``generate`` over token ids made beforehand; no plugin, no seeds, no log-probabilities."""
    os.environ |= {"VLLM_PLUGINS": "", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    import torch
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform

    torch.set_num_threads(available_cores())  # vLLM forbids it later
    tokenizer = load_tokenizer(order.engine.model)
    llm = LLM(**{**engine_arguments(order.engine, current_platform.is_cpu()), **order.vllm})

    def draw(draws: Draws) -> Drawn:
        prompts = [{"prompt_token_ids": ids} for ids in encode_prompts(tokenizer, draws.prompts)]
        sampling = draws.sampling
        params = SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
        )
        llm.reset_prefix_cache()
        started = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        texts = [(one.outputs[0].text, len(one.outputs[0].token_ids), one.outputs[0].finish_reason) for one in outputs]
        return drawn_from(
            draws,
            texts,
            seconds,
            first_s=seconds,
            prompt_tokens=sum(len(one.prompt_token_ids) for one in outputs),
            cached_tokens=sum(one.num_cached_tokens or 0 for one in outputs),
        )

    return draw


def ours(order: WayOrder) -> Draw:
    """`draw_round`: prompts, token ids, seeds, log-probabilities, cleaned texts and their lineage."""
    from fourshot.pipeline.synthesis.rounds import draw_round

    engine = open_engine(order.engine)

    def draw(draws: Draws) -> Drawn:
        engine.reset_prefix_cache()
        before = engine.stats()
        started = time.perf_counter()
        found = draw_round(engine, draws.task, draws.shots, draws.settings, draws.round_number, draws.task.label_names)
        seconds, after = time.perf_counter() - started, engine.stats()
        return drawn_from(
            draws,
            [(one.text, one.num_tokens, one.finish_reason) for one in found],
            seconds,
            first_s=seconds,
            prompt_tokens=after.prompt_tokens - before.prompt_tokens,
            cached_tokens=after.cached_tokens - before.cached_tokens,
        )

    return draw


def corpus(order: WayOrder) -> Draw:
    """`fourshot corpus` into a folder. Its time is counted from when its engine is open to the last row on disk."""
    from fourshot.pipeline.corpus import run
    from fourshot.pipeline.corpus.folder import CorpusFolder
    from fourshot.pipeline.corpus.run import make_corpus
    from fourshot.pipeline.events import Event
    from fourshot.pipeline.synthesis.child import READY

    run.COMPILE_FROM_ROWS = 0  # the engine as a large corpus has it

    def draw(draws: Draws) -> Drawn:
        first: list[float] = []

        def hear(event: Event) -> None:
            if event.unit == "rows" and event.done and not first:
                first.append(time.perf_counter())

        folder = Path(draws.folder)
        began = time.perf_counter()
        made = make_corpus({draws.task.name: draws.task}, order.engine.model, folder, draws.settings, on_event=hear)
        ended = time.perf_counter()
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        ready = next((float(line.removeprefix(READY)) for line in lines if line.startswith(READY)), began)
        units = [unit for shard in CorpusFolder(folder).journal() for unit in shard.units]
        return Drawn(
            seconds=ended - ready,
            first_s=first[0] - ready,
            prompt_tokens=made.rates.prompt_tokens,
            cached_tokens=round(made.rates.prompt_tokens * (made.rates.cached_share or 0)),
            output_tokens=sum(unit.output_tokens for unit in units),
            kept=made.rows,
            drawn=sum(unit.draws for unit in units),
            start_s=ready - began,
            peak_bytes=peak_bytes() + 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        )

    return draw


WAYS: dict[str, Callable[[WayOrder], Draw]] = {
    "vllm": vllm_alone,
    "ours": ours,
    "transformers": transformers_batches,
    "distilabel": distilabel,
    "corpus": corpus,
}


def main() -> None:
    with lines_in_and_out() as (lines, answer):
        order = msgspec.json.decode(next(lines), type=WayOrder)
        started = time.perf_counter()
        draw = WAYS[order.way](order)
        answer(Ready(start_s=time.perf_counter() - started))
        for line in lines:
            answer(draw(msgspec.json.decode(line, type=Draws)))


if __name__ == "__main__":
    main()

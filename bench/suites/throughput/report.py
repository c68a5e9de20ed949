"""Summary and report of the throughput suite's rows: rates with intervals, the limit, targets."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fourshot.bench.core.parts import Part, TablePart, at_least
from fourshot.bench.core.roofline import Machine, ModelShape
from fourshot.bench.core.statistics import estimate, ratio, with_interval
from fourshot.bench.core.workload import Workload
from fourshot.bench.suites import filter as filter_bench
from fourshot.bench.suites.throughput.samplers import DrawResult
from fourshot.engine.core import EngineSettings
from fourshot.pipeline.synthesis.filters import TextFilter, clean_completion
from fourshot.pipeline.synthesis.types import Candidate

NAMES = {
    "vllm": "vLLM alone",
    "ours": "fourshot, drawing",
    "transformers": "transformers `generate` in batches",
    "distilabel": "distilabel with vLLM",
    "corpus": "fourshot, a corpus: drawn, read in context, on disk",
}
# Arguments of vLLM alone that replace ours; the fastest set is the ceiling. The second set is vLLM's default on a CPU.
CEILINGS: dict[str, dict[str, Any]] = {
    "128 at a time, 2,048 tokens a step, as ours": {},
    "256 at a time, 4,096 tokens a step": {
        "max_num_seqs": 256,
        "max_num_batched_tokens": 4096,
        "enable_chunked_prefill": True,
    },
}
CEILING_GOAL, BATCHES_GOAL = 0.95, 5.0
AT_ONCE = EngineSettings(model="").max_num_seqs


class ThroughputBound(msgspec.Struct, frozen=True, kw_only=True):
    """The least work and time of generating given texts, with any engine."""

    flops_per_token: float  # per generated token
    bytes_per_token: float  # per generated token; one reading of the weights is shared by a step's texts
    seconds: float


def limit(shape: ModelShape, machine: Machine, result: DrawResult, together: int) -> ThroughputBound:
    """Return the bound: the longer of all operations and all memory reads, each at the machine's highest rate.

    Each step of ``together`` texts reads the weights once, and each token reads the cached keys and values of its text.
    The first token of a text comes with its prompt. ``result`` has the numbers of texts, tokens and cached tokens.
    """
    texts = len(result.texts)
    prompt, output = result.prompt_tokens / texts, result.output_tokens / texts
    mean_position = prompt + output / 2
    flops = shape.prompt_flops(mean_position, mean_position - 1)
    bytes_per_token = shape.weight_bytes / together + mean_position * shape.kv_bytes_per_token
    steps = result.output_tokens - texts
    computing = texts * shape.prompt_flops(prompt, result.cached_tokens / texts) + steps * flops
    return ThroughputBound(
        flops_per_token=flops,
        bytes_per_token=bytes_per_token,
        seconds=max(computing / machine.flops, steps * bytes_per_token / machine.bytes_per_s),
    )


def passing(workload: Workload, result: DrawResult) -> int:
    """Count the texts that pass `TextFilter.alone`, which looks at each text alone, after cleaning as in fourshot."""
    checks = TextFilter(workload.shots, task=workload.task)
    candidates = (
        Candidate(
            id="",
            text=clean_completion(workload.task, sampled.text),
            label=sampled.label,
            round=0,
            prompt_hash="",
            shots=(),
            num_tokens=sampled.num_tokens,
            cumulative_logprob=0.0,
            finish_reason="length" if sampled.finish_reason == "length" else "stop",
        )
        for sampled in result.texts
    )
    return sum(checks.alone(candidate) is None for candidate in candidates)


def sampler_row(
    name: str, workload: Workload, repeats: Sequence[DrawResult], start_s: float, limits: Sequence[ThroughputBound]
) -> dict[str, Any]:
    """Return a row of the table. Without ``limits``, its ``of_limit`` is None."""

    def per_second(counts: Sequence[float]) -> Any:
        return _rounded([count / repeat.seconds for count, repeat in zip(counts, repeats, strict=True)])

    texts = [repeat.num_texts for repeat in repeats]
    num_kept = [repeat.kept if repeat.kept >= 0 else passing(workload, repeat) for repeat in repeats]
    cached, prompts = (sum(getattr(r, field) for r in repeats) for field in ("cached_tokens", "prompt_tokens"))
    return {
        "way": name,
        "texts": texts,
        "kept": num_kept,
        "texts_per_s": per_second(texts),
        "kept_per_s": per_second(num_kept),
        "output_tokens_per_s": per_second([repeat.output_tokens for repeat in repeats]),
        "prompt_tokens_per_s": per_second([repeat.prompt_tokens for repeat in repeats]),
        "cached_share": round(cached / prompts, 4),
        "first_s": _rounded([repeat.first_s for repeat in repeats]),
        "start_s": round(start_s, 1),
        "peak_bytes": max(repeat.peak_bytes for repeat in repeats),
        "of_limit": _rounded([repeat.seconds / best.seconds for repeat, best in zip(repeats, limits, strict=True)])
        if limits
        else None,
    }


def summarise(repeats: int, workload: Workload, shape: ModelShape, pieces: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result without its header, from the suite's rows."""
    machines = [msgspec.convert(pieces[name], Machine) for name in ("machine", "machine after")]
    roof = Machine(
        flops=max(machine.flops for machine in machines), bytes_per_s=max(machine.bytes_per_s for machine in machines)
    )

    def results(name: str) -> list[DrawResult]:
        names = [f"{name}/{repeat}" for repeat in range(repeats)]
        return [msgspec.convert(pieces[piece], DrawResult) for piece in names if piece in pieces]

    def texts_per_s(piece: str) -> float:
        return round(len(pieces[piece]["texts"]) / pieces[piece]["seconds"], 2)

    ceilings = {name.removeprefix("ceiling/"): texts_per_s(name) for name in pieces if name.startswith("ceiling/")}
    ceiling = max(ceilings, key=ceilings.__getitem__)
    together = {"vllm": CEILINGS.get(ceiling, {}).get("max_num_seqs", AT_ONCE), "ours": AT_ONCE, "distilabel": AT_ONCE}
    sampler_rows = []
    for name in NAMES:
        if not (measured := results(name)):
            reason = pieces.get("distilabel", {}).get("reason", "not tried: --distilabel names an interpreter")
            sampler_rows.append({"way": name, "reason": reason, **pieces.get(name, {})})
            continue
        limits = [limit(shape, roof, result, together[name]) for result in measured] if name in together else []
        start_s = pieces[f"start/{name}"] if name != "corpus" else measured[0].start_s
        sampler_rows.append(sampler_row(name, workload, measured, start_s, limits))
    rates = {
        name: [len(result.texts) / result.seconds for result in results(name)]
        for name in ("vllm", "ours", "transformers")
    }
    against = {baseline: ratio(rates["ours"], rates[baseline]) for baseline in ("vllm", "transformers")}
    in_context = filter_bench.summarise(pieces, pieces["filter texts"])
    return {
        "machine": pieces["machine"],
        "machine_after": pieces["machine after"],
        "roof": roof,
        "limit": limit(shape, roof, results("ours")[0], AT_ONCE),
        "ceilings": ceilings,
        "ceiling": ceiling,
        "batches": {name: texts_per_s(name) for name in pieces if name.startswith("batch/")},
        "ways": sampler_rows,
        "ratios": against,
        "filter": in_context["ways"],
        "targets": [
            at_least("drawing against vLLM alone", "times", against["vllm"].mean, CEILING_GOAL),
            *in_context["targets"],
            at_least("drawing against transformers in batches", "times", against["transformers"].mean, BATCHES_GOAL),
        ],
    }


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return the limit, the table, the trials, and why something was not measured."""
    best, roof = result["limit"], result["roof"]
    ceilings = "; ".join(f"{name}: {rate:.1f}" for name, rate in result["ceilings"].items())
    batches = ", ".join(f"{rate:.1f} at {name.removeprefix('batch/')}" for name, rate in result["batches"].items())
    filters = ", ".join(f"{row['way']} {row['candidates_per_s']:.1f}" for row in result["filter"])
    missing = []
    for row in result["ways"]:
        if "reason" in row:
            versions = ", ".join(f"{name} {version}" for name, version in row.get("versions", {}).items())
            reason = f"n/a ({versions}): `{row['reason']}`" if versions else f"n/a, {row['reason']}."
            missing.append(f"{NAMES[row['way']]}: {reason}")
    return [
        f"The limit: a generated token takes {best['flops_per_token'] / 1e9:.3f} Gflop and, {AT_ONCE} at a time, "
        f"{best['bytes_per_token'] / 1e6:.1f} MB from memory. The machine does {roof['flops'] / 1e9:,.0f} Gflop/s "
        f"and reads {roof['bytes_per_s'] / 1e9:.1f} GB/s.",
        TablePart(
            ["", "texts/s", "kept/s", "tokens/s generated", "of prompts", "first text, s", "start, s", "memory, GB",
             "times the limit"],
            [_cells(row) for row in result["ways"]],
        ),
        f"vLLM alone, texts/s as it was tried. {ceilings}.",
        f"transformers, texts/s by batch: {batches}.",
        f"The in-context filter over texts that were drawn, texts/s: {filters}.",
        f"Drawing against vLLM alone, repeat by repeat, times: {with_interval(result['ratios']['vllm'], 3)}; against "
        f"transformers: {with_interval(result['ratios']['transformers'], 1)}.",
        *(["\n".join(missing)] if missing else []),
    ]  # fmt: skip


def _cells(row: Mapping[str, Any]) -> list[object]:
    if "texts_per_s" not in row:
        return [NAMES[row["way"]], "n/a", *[""] * 7]
    digits = {"texts_per_s": 1, "kept_per_s": 1, "output_tokens_per_s": 0, "prompt_tokens_per_s": 0, "first_s": 1}
    rates = [with_interval(row[name], places) for name, places in digits.items()]
    return [
        NAMES[row["way"]],
        *rates,
        f"{row['start_s']:.0f}",
        f"{row['peak_bytes'] / 1e9:.1f}",
        with_interval(row["of_limit"]),
    ]


def _rounded(values: Sequence[float]) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(estimate(values))
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in fields.items()}

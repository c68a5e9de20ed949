"""What the throughput suite's rows come to: rates with intervals, the limit beside them, targets, a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fourshot.bench.core.model_shape import ModelShape
from fourshot.bench.core.old import at_least, target_lines
from fourshot.bench.core.roofline import Machine
from fourshot.bench.core.statistics import Estimate, estimate, ratio
from fourshot.bench.core.workload import Workload
from fourshot.bench.suites import filter as reading
from fourshot.bench.suites.throughput.measure import CEILINGS, ThroughputSettings
from fourshot.bench.suites.throughput.orders import Drawn
from fourshot.engine.core import EngineSettings
from fourshot.pipeline.synthesis.filters import TextFilter, clean_text
from fourshot.pipeline.synthesis.types import Candidate

NAMES = {
    "vllm": "vLLM alone",
    "ours": "fourshot, drawing",
    "transformers": "transformers `generate` in batches",
    "distilabel": "distilabel with vLLM",
    "corpus": "fourshot, a corpus: drawn, read in context, on disk",
}
CEILING_GOAL, BATCHES_GOAL = 0.95, 5.0
AT_ONCE = EngineSettings(model="").max_num_seqs


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """What drawing these texts needs at least, whoever does it."""

    flops_per_token: float  # generated
    bytes_per_token: float  # generated; the weights are read once for all that are generated together
    seconds: float


def limit(shape: ModelShape, machine: Machine, drawn: Drawn, together: int) -> Limit:
    """The longer of all operations at the machine's highest rate, and all reading from memory at its highest.

    Read are the weights once per step of ``together`` texts, and what is cached of a text once for each of its tokens.
    The first token of a text comes with its prompt. ``drawn`` says how many prompt tokens were computed.
    """
    texts = len(drawn.texts)
    prompt, output = drawn.prompt_tokens / texts, drawn.output_tokens / texts
    before = prompt + output / 2
    flops = shape.prompt_flops(before, before - 1)
    read = shape.weight_bytes / together + before * shape.kv_bytes_per_token
    steps = drawn.output_tokens - texts
    computing = texts * shape.prompt_flops(prompt, drawn.cached_tokens / texts) + steps * flops
    return Limit(
        flops_per_token=flops,
        bytes_per_token=read,
        seconds=max(computing / machine.flops, steps * read / machine.bytes_per_s),
    )


def passing(stuff: Workload, drawn: Drawn) -> int:
    """Texts with nothing wrong in themselves: `TextFilter.alone`, after the cleaning that ours has done already."""
    checks = TextFilter(stuff.shots, task=stuff.task)
    return sum(
        checks.alone(
            Candidate(
                id="",
                text=clean_text(one.text),
                label=one.label,
                round=0,
                prompt_hash="",
                shots=(),
                num_tokens=one.num_tokens,
                cumulative_logprob=0.0,
                finish_reason="length" if one.finish_reason == "length" else "stop",
            )
        )
        is None
        for one in drawn.texts
    )


def way(
    name: str, stuff: Workload, repeats: Sequence[Drawn], start_s: float, limits: Sequence[Limit]
) -> dict[str, Any]:
    """One line of the table."""

    def rate(counts: Sequence[float]) -> Any:
        return _rounded([count / one.seconds for count, one in zip(counts, repeats, strict=True)])

    drawn = [one.drawn or len(one.texts) for one in repeats]
    kept = [one.kept if one.kept >= 0 else passing(stuff, one) for one in repeats]
    return {
        "way": name,
        "texts": drawn,
        "kept": kept,
        "texts_per_s": rate(drawn),
        "kept_per_s": rate(kept),
        "output_tokens_per_s": rate([one.output_tokens for one in repeats]),
        "prompt_tokens_per_s": rate([one.prompt_tokens for one in repeats]),
        "cached_share": round(sum(one.cached_tokens for one in repeats) / sum(one.prompt_tokens for one in repeats), 4),
        "first_s": _rounded([one.first_s for one in repeats]),
        "start_s": round(start_s, 1),
        "peak_bytes": max(one.peak_bytes for one in repeats),
        "of_limit": _rounded([one.seconds / best.seconds for one, best in zip(repeats, limits, strict=True)])
        if limits
        else None,
    }


def summarise(
    settings: ThroughputSettings, stuff: Workload, shape: ModelShape, found: Mapping[str, Any]
) -> dict[str, Any]:
    """The result behind its header, from the suite's rows."""
    machines = [msgspec.convert(found[name], Machine) for name in ("machine", "machine after")]
    machine = Machine(flops=max(one.flops for one in machines), bytes_per_s=max(one.bytes_per_s for one in machines))

    def all_of(name: str) -> list[Drawn]:
        pieces = [f"{name}/{repeat}" for repeat in range(settings.repeats)]
        return [msgspec.convert(found[piece], Drawn) for piece in pieces if piece in found]

    def texts_per_s(piece: str) -> float:
        return round(len(found[piece]["texts"]) / found[piece]["seconds"], 2)

    tried = {name.removeprefix("ceiling/"): texts_per_s(name) for name in found if name.startswith("ceiling/")}
    ceiling = max(tried, key=tried.__getitem__)
    together = {"vllm": CEILINGS.get(ceiling, {}).get("max_num_seqs", AT_ONCE), "ours": AT_ONCE, "distilabel": AT_ONCE}
    best = limit(shape, machine, all_of("ours")[0], AT_ONCE)
    ways = []
    for name in NAMES:
        repeats = all_of(name)
        if not repeats:
            reason = found.get("distilabel", {}).get("reason", "not tried: --distilabel names an interpreter")
            ways.append({"way": name, "reason": reason, **found.get(name, {})})
            continue
        limits = [limit(shape, machine, one, together[name]) for one in repeats] if name in together else []
        start_s = found[f"start/{name}"] if name != "corpus" else repeats[0].start_s
        ways.append(way(name, stuff, repeats, start_s, limits))
    rates = {name: [len(one.texts) / one.seconds for one in all_of(name)] for name in ("vllm", "ours", "transformers")}
    read = reading.summarise(found, found["filter texts"])
    against = {other: ratio(rates["ours"], rates[other]) for other in ("vllm", "transformers")}
    return {
        "machine": found["machine"],
        "machine_after": found["machine after"],
        "roof": msgspec.to_builtins(machine),
        "limit": msgspec.to_builtins(best),
        "ceilings": tried,
        "ceiling": ceiling,
        "batches": {name: texts_per_s(name) for name in found if name.startswith("batch/")},
        "ways": ways,
        "ratios": msgspec.to_builtins(against),
        "filter": read["ways"],
        "targets": [
            at_least("drawing against vLLM alone", "times", against["vllm"].mean, CEILING_GOAL),
            *read["targets"],
            at_least("drawing against transformers in batches", "times", against["transformers"].mean, BATCHES_GOAL),
        ],
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    best, machine = result["limit"], result["roof"]
    lines = [
        f"The limit: a generated token takes {best['flops_per_token'] / 1e9:.3f} Gflop and, {AT_ONCE} at a time, "
        f"{best['bytes_per_token'] / 1e6:.1f} MB from memory. The machine does {machine['flops'] / 1e9:,.0f} Gflop/s "
        f"and reads {machine['bytes_per_s'] / 1e9:.1f} GB/s.",
        "",
        "| | texts/s | kept/s | tokens/s generated | of prompts | first text, s | start, s | memory, GB | "
        "times the limit |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in result["ways"]:
        if "texts_per_s" not in one:
            lines.append(f"| {NAMES[one['way']]} | n/a |" + " |" * 7)
            continue
        cells = [
            _told(one["texts_per_s"], 1),
            _told(one["kept_per_s"], 1),
            _told(one["output_tokens_per_s"], 0),
            _told(one["prompt_tokens_per_s"], 0),
            _told(one["first_s"], 1),
            f"{one['start_s']:.0f}",
            f"{one['peak_bytes'] / 1e9:.1f}",
            _told(one["of_limit"], 1) if one["of_limit"] else "-",
        ]
        lines.append(f"| {NAMES[one['way']]} | {' | '.join(cells)} |")
    tried = "; ".join(f"{name}: {rate:.1f}" for name, rate in result["ceilings"].items())
    batches = ", ".join(f"{rate:.1f} at {name.removeprefix('batch/')}" for name, rate in result["batches"].items())
    lines += ["", f"vLLM alone, texts/s as it was tried. {tried}.", "", f"transformers, texts/s by batch: {batches}."]
    read = ", ".join(f"{one['way']} {one['candidates_per_s']:.1f}" for one in result["filter"])
    lines += ["", f"The in-context filter over texts that were drawn, texts/s: {read}."]
    lines += [
        "",
        "Drawing against vLLM alone, repeat by repeat, times: "
        f"{_told(result['ratios']['vllm'], 3)}; against transformers: {_told(result['ratios']['transformers'], 1)}.",
    ]
    lines += ["", *(f"{NAMES[one['way']]}: {_why_not(one)}" for one in result["ways"] if "reason" in one)]
    return "\n".join([*lines, "", *target_lines(result)])


def _why_not(one: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in one.get("versions", {}).items())
    return f"n/a ({versions}): `{one['reason']}`" if versions else f"n/a, {one['reason']}."


def _rounded(values: Sequence[float]) -> Any:
    found = msgspec.to_builtins(estimate(values))
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


def _told(found: Mapping[str, Any], digits: int) -> str:
    one = msgspec.convert(found, Estimate)
    if one.low is None or one.high is None:
        return f"{one.mean:,.{digits}f}"
    return f"{one.mean:,.{digits}f} ({one.low:,.{digits}f} to {one.high:,.{digits}f})"

"""Summary of the latency suite's rows: cells with intervals, ratios with what the roofline allows, and targets."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from statistics import fmean
from typing import Any

import msgspec

from fourshot.bench.core.closed_loop import CellMeasurement, repeated
from fourshot.bench.core.parts import Target, at_least
from fourshot.bench.core.roofline import Machine, ModelShape, Roof
from fourshot.bench.core.statistics import ratio, with_values
from fourshot.bench.core.workload import VARIANTS
from fourshot.bench.suites.latency.plan import SATURATED, LatencySettings, all_cells

SHARE_GOAL, ALONE_GOAL, WARM_GOAL, WARM_SATURATED_GOAL = 0.8, 2.0, 1.0, 1.6
CACHE_OFF_GOALS = {"sst2": 8.0, "trec": 30.0, "ag_news": 19.0}  # times the throughput of in context, saturated
HIT_RATE_GOALS = {"sst2": 0.3, "trec": 0.6}  # share of an adapter's prompt tokens served from the prefix cache
INSTRUCTION_GOAL = 0.9  # throughput with the instruction, as a share of the bare text's
LORA, BARE, FILLED = "lora", "lora_bare", "lora_filler"
WITH_INSTRUCTION = (LORA, FILLED)
ROUTES = ("in-process", "http", "http-open")
MANY_ADAPTERS, MANY_GOAL = 32, 0.9

Group = tuple[str, str, str, float]  # route, variant, task, load


def summarise(settings: LatencySettings, pieces: Mapping[str, Any]) -> dict[str, Any]:
    """Return all computed keys of the result, for the cells measured so far."""
    groups = collect(settings, pieces)
    roof = roof_of(msgspec.convert(pieces["shape"], ModelShape), msgspec.convert(pieces["machine"], Machine), groups)
    ratios = [
        row
        for task in settings.tasks
        for variant in settings.variants
        for concurrency in settings.requests
        if (row := ratios_to_icl(groups, roof, variant, task, concurrency)) is not None
    ]
    return {
        "machine": {"before": pieces["machine"], "after": pieces.get("machine after")},
        "roof": {
            "shape": pieces["shape"],
            "floor_alone_ms": 1000 * roof.floor_alone_s,
            "floor_saturated_ms": 1000 * roof.floor_saturated_s,
        },
        "missing": [cell.name for cell in all_cells(settings) if cell.name not in pieces],
        "cells": [cell_numbers(group, repeats, settings) for group, repeats in groups.items()],
        "against_icl": ratios,
        "targets": [
            *targets(ratios, settings),
            *instruction_targets(groups, settings),
            *many_targets(groups, settings),
        ],
    }


def collect(settings: LatencySettings, pieces: Mapping[str, Any]) -> dict[Group, list[CellMeasurement]]:
    """Return the repeats of every measured cell, in order. Cells are sorted by route, task, variant and load."""
    groups: dict[Group, list[CellMeasurement]] = defaultdict(list)
    for cell in sorted(all_cells(settings), key=lambda cell: cell.repeat):
        if cell.name in pieces:
            groups[cell.group].append(msgspec.convert(pieces[cell.name], CellMeasurement))
    return dict(sorted(groups.items(), key=lambda item: _place(item[0], settings)))


def _place(group: Group, settings: LatencySettings) -> tuple[Any, ...]:
    route, variant, task, load = group
    variants = [*settings.measured_variants, *settings.http_variants]
    is_last = route != "http-open" and load == SATURATED
    return ROUTES.index(route), settings.tasks.index(task), variants.index(variant), is_last, load


def rates(repeats: Sequence[CellMeasurement]) -> list[float]:
    return [measured.rate for measured in repeats]


def medians_ms(repeats: Sequence[CellMeasurement]) -> list[float]:
    return [measured.median_ms for measured in repeats]


def mean_tokens(repeats: Sequence[CellMeasurement]) -> tuple[float, float]:
    """Return the mean prompt tokens and the mean cached tokens of a request."""
    requests = sum(len(measured.rows) for measured in repeats)
    prompt, cached = (
        sum(getattr(measured, name) for measured in repeats) for name in ("prompt_tokens", "cached_tokens")
    )
    return prompt / requests, cached / requests


def cell_numbers(group: Group, repeats: Sequence[CellMeasurement], settings: LatencySettings) -> dict[str, Any]:
    """Return the row of one cell."""
    route, variant, task, load = group
    rows = [row for measured in repeats for row in measured.rows]
    within = [
        sum(latency <= settings.slo_ms for latency in measured.latencies_ms) / measured.seconds for measured in repeats
    ]
    return {
        "route": route,
        "way": variant,
        "task": task,
        "load": f"{load:g} of capacity" if route == "http-open" else ("saturated" if load == SATURATED else int(load)),
        "requests": len(rows),
        "failed": sum(measured.failed for measured in repeats),
        **repeated(repeats),
        "goodput_per_s": with_values(within),
        "queue_ms": fmean(1000 * (row.begun_s - row.sent_s) for row in rows),
        "model_ms": fmean(1000 * (row.done_s - row.begun_s) for row in rows),
        "prompt_tokens": mean_tokens(repeats)[0],
        "tpot_ms": None,  # the answer is one token, so there is no time per further token
    }


def roof_of(shape: ModelShape, machine: Machine, groups: Mapping[Group, Sequence[CellMeasurement]]) -> Roof:
    """Return the roofline with the measured cost of a request without a text; 0 if it was not measured."""
    floors = {
        load: measured
        for (route, name, _, load), measured in groups.items()
        if (route, name) == ("in-process", "floor")
    }
    return Roof(
        machine=machine,
        shape=shape,
        floor_alone_s=min((ms / 1000 for ms in medians_ms(floors.get(1, ()))), default=0.0),
        floor_saturated_s=min((1 / rate for rate in rates(floors.get(SATURATED, ()))), default=0.0),
    )


def ratios_to_icl(
    groups: Mapping[Group, list[CellMeasurement]], roof: Roof, variant: str, task: str, concurrency: int
) -> dict[str, Any] | None:
    """Return the speed of ``variant`` relative to in context, cache off and warm, and what tokens and roofline allow.

    None if the variant's prompts have shots or no text, it runs one by one, or it was not measured at this concurrency.
    """
    repeats = groups.get(("in-process", variant, task, concurrency))
    about = VARIANTS[variant]
    if repeats is None or about.shots != "none" or not about.text or about.one_by_one:
        return None
    tokens, cached = mean_tokens(repeats)
    limit = roof.alone_s if concurrency == 1 else roof.saturated_s
    row: dict[str, Any] = {
        "way": variant,
        "task": task,
        "concurrency": "saturated" if concurrency == SATURATED else concurrency,
        "limit_ms": 1000 * limit(tokens, cached),
        "measured_ms": 1000 * fmean(1 / rate for rate in rates(repeats)),
    }
    for baseline in ("icl_off", "icl_warm"):
        icl_repeats = groups.get(("in-process", baseline, task, concurrency))
        if icl_repeats is None or len(icl_repeats) != len(repeats):  # an interrupted run
            continue
        their_tokens, their_cached = mean_tokens(icl_repeats)
        row[baseline] = {
            "throughput": msgspec.to_builtins(ratio(rates(repeats), rates(icl_repeats))),
            "prompt_tokens": (their_tokens - their_cached) / (tokens - cached),  # computed tokens
            "roof": limit(their_tokens, their_cached) / limit(tokens, cached),
        }
        # If all are sent at once, each waits for those before it, so p50 depends on the number of requests.
        if concurrency != SATURATED or [len(measured.rows) for measured in repeats] == [
            len(measured.rows) for measured in icl_repeats
        ]:
            row[baseline]["p50"] = msgspec.to_builtins(ratio(medians_ms(icl_repeats), medians_ms(repeats)))
    return row


def targets(ratios: Sequence[Mapping[str, Any]], settings: LatencySettings) -> list[Target]:
    """Return the targets of each kind of adapter prompt, against in context."""
    goals = []
    for variant in (*WITH_INSTRUCTION, BARE):
        for task in settings.tasks if variant in settings.variants else ():
            name = f"{VARIANTS[variant].display_name}, {task}"
            rows = {row["concurrency"]: row for row in ratios if (row["way"], row["task"]) == (variant, task)}
            saturated, single = (rows.get(load, {}).get("icl_off") for load in ("saturated", 1))
            if saturated:
                share = saturated["throughput"]["mean"] / saturated["prompt_tokens"]
                goals.append(at_least(f"{name}, saturated: share of the ratio of prompt tokens", "", share, SHARE_GOAL))
            if saturated and variant in WITH_INSTRUCTION and task in CACHE_OFF_GOALS:
                about = f"{name}, saturated: throughput against in context, cache off"
                goals.append(at_least(about, "times", saturated["throughput"]["mean"], CACHE_OFF_GOALS[task]))
            if single:
                about = f"{name}, one at a time: p50 against in context, cache off"
                goals.append(at_least(about, "times", single["p50"]["mean"], ALONE_GOAL))
            warm = {load: row["icl_warm"]["throughput"]["mean"] for load, row in rows.items() if "icl_warm" in row}
            if warm:
                worst = min(warm, key=warm.__getitem__)
                about = f"{name}, against warm in context, worst cell ({worst})"
                goals.append(at_least(about, "times", warm[worst], WARM_GOAL))
            if "saturated" in warm and variant in WITH_INSTRUCTION:
                about = f"{name}, saturated: throughput against warm in context"
                goals.append(at_least(about, "times", warm["saturated"], WARM_SATURATED_GOAL))
    return goals


def instruction_targets(groups: Mapping[Group, list[CellMeasurement]], settings: LatencySettings) -> list[Target]:
    """Return targets for an adapter's throughput with the instruction, against the bare text, and for its hit rate."""
    goals = []
    for task, variant in product(settings.tasks, WITH_INSTRUCTION):
        name = f"{VARIANTS[variant].display_name}, {task}, saturated"
        if share := _saturated_share(groups, task, variant, BARE):
            goals.append(at_least(f"{name}: share of the bare text's throughput", "", share, INSTRUCTION_GOAL))
        instruction = groups.get(("in-process", variant, task, SATURATED))
        if instruction and task in HIT_RATE_GOALS:
            tokens, cached = mean_tokens(instruction)
            goals.append(at_least(f"{name}: hit rate of the prefix cache", "", cached / tokens, HIT_RATE_GOALS[task]))
    return goals


def many_targets(groups: Mapping[Group, list[CellMeasurement]], settings: LatencySettings) -> list[Target]:
    """Return targets for many adapters in a batch against the base, if there are at least `MANY_ADAPTERS`."""
    goals = []
    for task in settings.tasks if settings.many_adapters >= MANY_ADAPTERS else ():
        if share := _saturated_share(groups, task, "lora_many", "zero_shot"):
            name = f"{settings.many_adapters} adapters, {task}, saturated: share of the base's throughput"
            goals.append(at_least(name, "", share, MANY_GOAL))
    return goals


def _saturated_share(groups: Mapping[Group, list[CellMeasurement]], task: str, *variants: str) -> float | None:
    """Return the first variant's throughput over the second's; None if one is missing or lacks repeats."""
    above, below = (groups.get(("in-process", variant, task, SATURATED)) for variant in variants)
    return ratio(rates(above), rates(below)).mean if above and below and len(above) == len(below) else None

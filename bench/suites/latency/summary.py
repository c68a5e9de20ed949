"""From the latency suite's rows to its numbers: per cell with intervals, ratios beside what the roof allows, targets.

Importing this module loads neither torch nor vllm.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import msgspec

from fourshot.bench.core.driver import Answered, CellResult
from fourshot.bench.core.load import percentile
from fourshot.bench.core.machine import Machine
from fourshot.bench.core.model_shape import ModelShape
from fourshot.bench.core.old import at_least
from fourshot.bench.core.roofline import Roof
from fourshot.bench.core.statistics import estimate, ratio
from fourshot.bench.core.workload import WAYS
from fourshot.bench.suites.latency.http import HttpResult
from fourshot.bench.suites.latency.plan import (
    SATURATED,
    Cell,
    LatencySettings,
    http_cells,
    in_process_cells,
    open_cells,
)

SHARE_GOAL, ALONE_GOAL, WARM_GOAL = 0.8, 2.0, 1.0
LORA, BARE = "lora", "lora_bare"
ROUTES = ("in-process", "http", "http-open")
MANY_ADAPTERS, MANY_GOAL = 32, 0.9

Group = tuple[str, str, str, float]  # route, way, task, load
Result = CellResult | HttpResult


def summarise(settings: LatencySettings, found: Mapping[str, Any]) -> dict[str, Any]:
    """All keys of the result that are computed, of the cells that were measured so far."""
    groups = collect(settings, found)
    cells = [cell_numbers(group, results, settings) for group, results in groups.items()]
    roof = roof_of(msgspec.convert(found["shape"], ModelShape), msgspec.convert(found["machine"], Machine), groups)
    ratios = [
        one
        for task in settings.tasks
        for way in settings.ways
        for concurrency in settings.requests
        if (one := ratios_to_icl(groups, roof, way, task, concurrency)) is not None
    ]
    wanted = [cell for cells_, _ in _planned(settings) for cell in cells_]
    return {
        "machine": {"before": found["machine"], "after": found.get("machine after")},
        "roof": {
            "shape": found["shape"],
            "floor_alone_ms": 1000 * roof.floor_alone_s,
            "floor_saturated_ms": 1000 * roof.floor_saturated_s,
        },
        "missing": [cell.name for cell in wanted if cell.name not in found],
        "cells": cells,
        "against_icl": ratios,
        "targets": [*targets(ratios, settings), *many_targets(groups, settings)],
    }


def collect(settings: LatencySettings, found: Mapping[str, Any]) -> dict[Group, list[Result]]:
    """The repeats of every cell, in their order; cells by route, task, way and load."""
    groups: dict[Group, list[Result]] = defaultdict(list)
    for cells, kind in _planned(settings):
        for cell in sorted(cells, key=lambda one: one.repeat):
            if cell.name in found:
                groups[cell.group].append(msgspec.convert(found[cell.name], kind))
    return dict(sorted(groups.items(), key=lambda item: _place(item[0], settings)))


def _place(group: Group, settings: LatencySettings) -> tuple[Any, ...]:
    route, way, task, load = group
    is_last = route != "http-open" and load == SATURATED
    return ROUTES.index(route), settings.tasks.index(task), settings.measured_ways.index(way), is_last, load


def _planned(settings: LatencySettings) -> list[tuple[Sequence[Cell], type]]:
    planned: list[tuple[Sequence[Cell], type]] = [(in_process_cells(settings), CellResult)]
    if settings.http:
        planned += [(http_cells(settings), HttpResult), (list(open_cells(settings)), HttpResult)]
    return planned


def rate(result: Result) -> float:
    return len(result.rows) / result.seconds


def latencies_ms(result: Result) -> list[float]:
    return [1000 * one.latency_s for one in result.rows]


def computed_tokens(results: Sequence[Result]) -> tuple[float, float]:
    """Mean prompt tokens and mean cached tokens of a request."""
    requests = sum(len(one.rows) for one in results)
    return sum(one.prompt_tokens for one in results) / requests, sum(one.cached_tokens for one in results) / requests


def cell_numbers(group: Group, results: Sequence[Result], settings: LatencySettings) -> dict[str, Any]:
    """One row of the table."""
    route, way, task, load = group
    rows: list[Answered] = [row for one in results for row in one.rows]
    pooled = [1000 * row.latency_s for row in rows]
    tokens, cached = computed_tokens(results)
    within = [sum(latency <= settings.slo_ms for latency in latencies_ms(one)) / one.seconds for one in results]
    return {
        "route": route,
        "way": way,
        "task": task,
        "load": f"{load:g} of capacity" if route == "http-open" else ("saturated" if load == SATURATED else int(load)),
        "requests": len(rows),
        "failed": sum(getattr(one, "failed", 0) for one in results),
        "requests_per_s": _plain([rate(one) for one in results]),
        "p50_ms": _plain([median(latencies_ms(one)) for one in results]),
        "p95_ms": percentile(pooled, 0.95),
        "p99_ms": percentile(pooled, 0.99),
        "goodput_per_s": _plain(within),
        "queue_ms": fmean(1000 * (row.begun_s - row.sent_s) for row in rows),
        "model_ms": fmean(1000 * (row.done_s - row.begun_s) for row in rows),
        "prompt_tokens": tokens,
        "hit_rate": cached / tokens if tokens else 0.0,
        "yardstick_s": [getattr(one, "yardstick_s", 0.0) for one in results],
        "tpot_ms": None,  # one token is answered: there is no time per further token
    }


def roof_of(shape: ModelShape, machine: Machine, groups: Mapping[Group, Sequence[Result]]) -> Roof:
    """The roof, with the floor as the suite measured it; without a floor cell, 0."""
    alone, saturated = [], []
    for (route, way, _, load), results in groups.items():
        if (route, way) == ("in-process", "floor"):
            if load == 1:
                alone += [median(latencies_ms(one)) / 1000 for one in results]
            elif load == SATURATED:
                saturated += [1 / rate(one) for one in results]
    return Roof(
        machine=machine,
        shape=shape,
        floor_alone_s=min(alone, default=0.0),
        floor_saturated_s=min(saturated, default=0.0),
    )


def ratios_to_icl(
    groups: Mapping[Group, list[Result]], roof: Roof, way: str, task: str, concurrency: int
) -> dict[str, Any] | None:
    """How much faster ``way`` is than in context with the cache off and warm, and what its tokens and the roof allow.

    None where the way has its shots in the prompt itself, or was not measured at this concurrency.
    """
    own = groups.get(("in-process", way, task, concurrency))
    if own is None or WAYS[way].shots != "none" or not WAYS[way].text or WAYS[way].one_by_one:
        return None
    tokens, cached = computed_tokens(own)
    limit = roof.alone_s if concurrency == 1 else roof.saturated_s
    row: dict[str, Any] = {
        "way": way,
        "task": task,
        "concurrency": "saturated" if concurrency == SATURATED else concurrency,
        "limit_ms": 1000 * limit(tokens, cached),
        "measured_ms": 1000 * fmean(1 / rate(one) for one in own),
    }
    for other in ("icl_off", "icl_warm"):
        theirs = groups.get(("in-process", other, task, concurrency))
        if theirs is None or len(theirs) != len(own):  # a run that was cut off
            continue
        their_tokens, their_cached = computed_tokens(theirs)
        row[other] = {
            "throughput": msgspec.to_builtins(ratio([rate(one) for one in own], [rate(one) for one in theirs])),
            "prompt_tokens": their_tokens / tokens,
            "roof": limit(their_tokens, their_cached) / limit(tokens, cached),
        }
        # Where all come at once, each waits for those before it: p50 of another number of requests says nothing.
        if concurrency != SATURATED or [len(one.rows) for one in own] == [len(one.rows) for one in theirs]:
            row[other]["p50"] = msgspec.to_builtins(
                ratio([median(latencies_ms(one)) for one in theirs], [median(latencies_ms(one)) for one in own])
            )
    return row


def targets(ratios: Sequence[Mapping[str, Any]], settings: LatencySettings) -> list[dict[str, Any]]:
    """What was asked for, with the better of the two prompts of an adapter and with each."""
    found = []
    by_cell = {(one["way"], one["task"], one["concurrency"]): one for one in ratios}
    for way in (LORA, BARE):
        if way not in settings.ways:
            continue
        name = WAYS[way].display_name
        for task in settings.tasks:
            full = by_cell.get((way, task, "saturated"))
            if full and "icl_off" in full:
                against = full["icl_off"]
                share = against["throughput"]["mean"] / against["prompt_tokens"]
                found.append(
                    at_least(f"{name}, {task}, saturated: share of the ratio of prompt tokens", "", share, SHARE_GOAL)
                )
            alone = by_cell.get((way, task, 1))
            if alone and "icl_off" in alone:
                found.append(
                    at_least(
                        f"{name}, {task}, one at a time: p50 against in context, cache off",
                        "times",
                        alone["icl_off"]["p50"]["mean"],
                        ALONE_GOAL,
                    )
                )
            warm = [
                (one["icl_warm"]["throughput"]["mean"], one["concurrency"])
                for one in ratios
                if (one["way"], one["task"]) == (way, task) and "icl_warm" in one
            ]
            if warm:
                worst, where = min(warm, key=lambda pair: pair[0])
                found.append(
                    at_least(
                        f"{name}, {task}, against warm in context, worst cell ({where})", "times", worst, WARM_GOAL
                    )
                )
    return found


def many_targets(groups: Mapping[Group, list[Result]], settings: LatencySettings) -> list[dict[str, Any]]:
    """Many adapters in a batch against the base, where there are as many as the target is about."""
    if settings.many_adapters < MANY_ADAPTERS:
        return []
    found = []
    for task in settings.tasks:
        pair = [groups.get(("in-process", way, task, SATURATED)) for way in ("lora_many", "zero_shot")]
        if pair[0] and pair[1]:
            share = ratio(*([rate(one) for one in side] for side in pair if side)).mean
            name = f"{settings.many_adapters} adapters, {task}, saturated: share of the base's throughput"
            found.append(at_least(name, "", share, MANY_GOAL))
    return found


def _plain(values: Sequence[float]) -> dict[str, Any]:
    return {**msgspec.to_builtins(estimate(values)), "values": list(values)}

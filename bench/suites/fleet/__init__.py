"""Simulation of thousands of adapters on many replicas: hit rate of slots, latency and replicas needed, by routing.

    fourshot bench fleet --latency FILE.json --serving FILE.json --adapters FILE.json --out FILE.json

Nothing is served. The code of the real router and queue runs with a simulated clock. The times of a step and of loading
an adapter come from results of the suites latency, serving and adapters, all of one machine, which is one replica. The
same seed gives the same numbers on any machine.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.options import Out, Positive
from fourshot.bench.core.parts import MISSING, Part, TablePart
from fourshot.bench.core.results import FinishedPieces, read_result, show_progress
from fourshot.bench.core.suite import Suite
from fourshot.bench.suites.fleet.replica import ServiceTimes, read_times
from fourshot.bench.suites.fleet.simulation import PLAIN, ROUTINGS, Scenario, SimulationResult, simulate
from fourshot.engine.errors import InputError

SCENARIOS = ("steady", "burst", "loss")
SHARE = 0.6  # load as a share of the replicas' capacity with every adapter in its slot
BURST = (12.0, 22.0, 0.2)  # from, to (s), additional share of the load, for one rarely requested adapter
LOSS = (12.0, 22.0)  # from, to (s)
UNUSUAL_REPLICAS = 32  # replicas in the scenarios burst and loss
MOST_REPLICAS = 64  # the most replicas tried for a load


class Options(msgspec.Struct, frozen=True, kw_only=True):
    latency: Annotated[Path, "a result of `fourshot bench latency`"]
    serving: Annotated[Path, "a result of `fourshot bench serving`, of the same machine"]
    adapters: Annotated[Path, "a result of `fourshot bench adapters`, of the same machine"]
    out: Out
    tasks: Annotated[Positive, "adapters, each of a task of its own"] = 10_000
    zipf: Annotated[float, "exponent of Zipf's law, by which tasks are requested"] = 1.1
    memory: Annotated[Positive, "adapters that a replica keeps in memory beside its slots"] = 1024
    replicas: Annotated[tuple[Positive, ...], "how many"] = (8, 16, 32, 64)
    loads: Annotated[tuple[Positive, ...], "requests/s for which the number of replicas is sought"] = (200, 1000)
    p99_ms: Annotated[Positive, "that these are to be answered within"] = 250
    seconds: Annotated[float, msgspec.Meta(gt=5), "of each scenario, simulated; the first five do not count"] = 30.0
    seed: int = 0


SOURCES = ("latency", "serving", "adapters")


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Simulate everything that is not ``done``, and a check against the serving result."""
    results = {name: read_result(getattr(options, name), name) for name in SOURCES}
    times = read_times(**results)
    return {
        "sources": {name: {"file": getattr(options, name).name, "commit": results[name]["commit"]} for name in SOURCES},
        "times": msgspec.to_builtins(times),
        "check": check(results["serving"], times),
        "rows": [
            done.add_once(f"{name}, {routing}, {number}", partial(_row, name, routing, number, options, times))
            for name, routing, number in plan(options)
        ],
        "needed": [
            done.add_once(f"{load} requests/s, {routing}", partial(needed, routing, load, options, times))
            for load in options.loads
            for routing in PLAIN
        ],
        "targets": [],
    }


def plan(options: Options) -> list[tuple[str, str, int]]:
    """Return (scenario, routing, replicas) of every row to simulate."""
    sizes = dict.fromkeys(SCENARIOS, (UNUSUAL_REPLICAS,)) | {"steady": options.replicas}
    routings = dict.fromkeys(SCENARIOS, PLAIN) | {"steady": tuple(ROUTINGS)}
    return [(name, routing, size) for name in SCENARIOS for size in sizes[name] for routing in routings[name]]


def scenario(name: str, routing: str, replicas: int, rate: float, options: Options) -> Scenario:
    """Return the scenario ``name``. ``rate``: requests per second over all replicas."""
    start, end, added_share = BURST
    return Scenario(
        routing=routing,
        replicas=replicas,
        rate=rate,
        adapters=options.tasks,
        zipf=options.zipf,
        memory=options.memory,
        seconds=options.seconds,
        seed=options.seed,
        burst=(start, end, added_share * rate) if name == "burst" else (0.0, 0.0, 0.0),
        loss=LOSS if name == "loss" else (0.0, 0.0),
    )


def _row(name: str, routing: str, replicas: int, options: Options, times: ServiceTimes) -> dict[str, Any]:
    rate = SHARE * times.capacity_per_s * replicas
    outcome = simulate(scenario(name, routing, replicas, rate, options), times)
    show_progress(f"{name}, {routing}, {replicas} replicas: p99 {outcome.p99_ms:.0f} ms")
    fields = {"scenario": name, "routing": routing, "replicas": replicas, "rate": rate}
    return fields | msgspec.to_builtins(outcome)


def needed(routing: str, load: int, options: Options, times: ServiceTimes) -> dict[str, Any]:
    """Return the fewest replicas that answer ``load`` requests/s within --p99-ms and reject none, or None."""

    def fits(replicas: int) -> bool:
        outcome: SimulationResult = simulate(scenario("steady", routing, replicas, load, options), times)
        return outcome.p99_ms <= options.p99_ms and not outcome.refused

    number = fewest(fits, max(1, int(load / times.capacity_per_s)), MOST_REPLICAS)
    show_progress(f"{load} requests/s, {routing}: {number or 'more than ' + str(MOST_REPLICAS)} replicas")
    return {"load": load, "routing": routing, "replicas": number}


def fewest(fits: Callable[[int], bool], least: int, largest: int) -> int | None:
    """Return the smallest number in ``least`` to ``largest`` that fits, by bisection; None if ``largest`` does not."""
    number = bisect_left(range(largest + 1), True, lo=least, key=fits)
    return None if number > largest else number


def check(serving: Mapping[str, Any], times: ServiceTimes) -> dict[str, Any]:
    """Return the latencies that the serving suite measured at moderate load, and those of a simulation of that load."""
    settings, calm = serving["settings"], serving["calm"]
    simulated = simulate(
        Scenario(
            routing="random",
            replicas=1,
            rate=calm["requests"] / 60,
            adapters=settings["tasks"],
            zipf=settings["zipf"],
            memory=2 * settings["tasks"],
            seconds=65.0,
        ),
        times,
    )
    return {
        "measured": {name: calm["latency_ms"][name] for name in ("p50", "p99")},
        "simulated": {"p50": simulated.p50_ms, "p99": simulated.p99_ms},
    }


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return the sources of the numbers, a table of the scenarios, and a table of the replicas needed."""
    settings, times, compared = result["settings"], result["times"], result["check"]
    sources = ", ".join(f"{source['file']} ({source['commit']})" for source in result["sources"].values())
    about = (
        f"{settings['tasks']:,} adapters by Zipf {settings['zipf']:g}; on each replica {times['slots']} slots, and "
        f"{settings['memory']:,} adapters in memory. Sources of the times: {sources}. A step of "
        f"{times['texts'][1]} texts {times['one_ms'][1]:.0f} ms, an adapter from memory {times['memory_ms']:.1f} ms, "
        f"from disk {times['disk_ms']:.1f} ms, HTTP {times['http_ms']:.1f} ms a text. For the load of "
        f"the serving suite, one replica, the simulation says p50 {compared['simulated']['p50']:.0f} ms and p99 "
        f"{compared['simulated']['p99']:.0f} ms; measured were {compared['measured']['p50']:.0f} and "
        f"{compared['measured']['p99']:.0f}."
    )
    columns: dict[str, Any] = {
        "scenario": "{scenario}",
        "routing": "{routing}",
        "replicas": "{replicas}",
        "requests/s": "{rate:,.0f}",
        "in a slot": lambda row: f"{row['slot_share']:.0%}",
        "from disk": lambda row: f"{row['disk_share']:.0%}",
        "p50 ms": "{p50_ms:.0f}",
        "p99 ms": "{p99_ms:,.0f}",
        "rejected": lambda row: f"{row['refused'] / row['requests']:.1%}",
        "busy": lambda row: f"{row['busy']:.0%}",
    }
    note = "*Loosely*: with 8 requests above the bound in place of the router's own number."
    return [about, TablePart.of(result["rows"], columns, left=2, note=note), _needed_table(result["needed"], settings)]


def _needed_table(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> TablePart:
    loads = list(dict.fromkeys(row["load"] for row in rows))
    numbers = {(row["routing"], row["load"]): row["replicas"] or f"> {MOST_REPLICAS}" for row in rows}
    cells = [[routing, *(numbers.get((routing, load), MISSING) for load in loads)] for routing in PLAIN]
    return TablePart(
        [f"replicas for a p99 of {settings['p99_ms']} ms", *(f"{load:,} requests/s" for load in loads)], cells
    )


def settings(options: Options) -> dict[str, Any]:
    """Return all options that determine the numbers. Raises InputError if --seconds is too short for the scenarios."""
    if options.seconds <= LOSS[1]:
        raise InputError(f"--seconds {options.seconds:g}: bursts and losses last until {LOSS[1]:g} s. Give more.")
    numbers = {name: value for name, value in msgspec.to_builtins(options, enc_hook=str).items() if name != "out"}
    return numbers | {name: getattr(options, name).name for name in SOURCES}


SUITE = Suite(options=Options, measure=measure, settings=settings, report=report)

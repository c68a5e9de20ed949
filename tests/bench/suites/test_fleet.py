"""The fleet is simulated by the product's own routing and queue, on times that other suites measured."""

from typing import Any

import msgspec
import pytest

from fourshot.bench.core.results import RESULTS, read_result
from fourshot.bench.suites import fleet
from fourshot.bench.suites.fleet.replica import ServiceTimes, read_times
from fourshot.bench.suites.fleet.simulation import PLAIN, Scenario, SimulationResult, arrivals, simulate
from fourshot.engine.errors import InputError

TIMES = ServiceTimes(
    texts=(1, 4, 16),
    one_ms=(40.0, 80.0, 240.0),
    several_ms=(40.0, 96.0, 288.0),
    adapters=8,
    http_ms=1.0,
    memory_ms=3.0,
    disk_ms=15.0,
    prompt_tokens=42,
    slots=8,
)
SMALL = Scenario(routing="bounded rendezvous", replicas=4, rate=80, adapters=300, zipf=1.1, memory=40, seconds=12)


def outcome(**changed: Any) -> SimulationResult:
    return simulate(msgspec.structs.replace(SMALL, **changed), TIMES)


def test_a_step_takes_what_was_measured_and_its_loads() -> None:
    assert TIMES.step_s(4, 1, 0, 0) == pytest.approx(0.084)
    assert TIMES.step_s(10, 8, 2, 1) == pytest.approx((96 + (288 - 96) / 2 + 10 + 2 * 3 + 15) / 1000)
    assert TIMES.step_s(32, 1, 0, 0) == pytest.approx(2 * (240 + 16) / 1000)


def test_the_same_seed_gives_the_same_numbers_and_another_one_others() -> None:
    assert outcome() == outcome() != outcome(seed=1)


def test_every_request_is_answered_or_refused_also_when_a_replica_dies() -> None:
    lost = outcome(loss=(7.0, 10.0))
    assert lost.moved > 0 and lost.refused == 0
    assert lost.requests == len([request for request in arrivals(SMALL) if request.at_s >= 5]) == lost.answered
    crowded = outcome(replicas=1, adapters=8, rate=150, seconds=16, burst=(6.0, 12.0, 60.0))
    assert crowded.refused > 0 and crowded.answered + crowded.refused == crowded.requests


def test_tasks_that_stay_with_a_replica_find_their_adapter_in_a_slot_more_often() -> None:
    shares = {routing: outcome(routing=routing) for routing in PLAIN}
    assert shares["bounded rendezvous"].slot_share > shares["random"].slot_share + 0.1
    assert shares["bounded rendezvous"].disk_share < shares["least loaded"].disk_share
    assert shares["bounded rendezvous"].p99_ms < shares["rendezvous"].p99_ms, "one task alone is more than its share"


def test_the_fewest_replicas_that_fit_are_found() -> None:
    assert [fleet.fewest(lambda number, least=least: number >= least, 1, 64) for least in (1, 7, 64, 65)] == [  # type: ignore[misc]
        *(1, 7, 64),
        None,
    ]


def test_times_are_those_of_the_results_and_a_result_that_lacks_them_is_told_of() -> None:
    results = {name: read_result(next(RESULTS.glob(f"{name}-*.json")), name) for name in fleet.SOURCES}
    times = read_times(**results)
    assert times.texts[0] == 1 and times.one_ms[0] < times.one_ms[-1] <= times.several_ms[-1]
    assert 0 < times.memory_ms < times.disk_ms
    with pytest.raises(InputError, match="has no cell of 'lora' for 'sst2'"):
        read_times(**{**results, "latency": {**results["latency"], "cells": []}})
    with pytest.raises(InputError, match="no load of the kind 'memory'"):
        read_times(**{**results, "adapters": {**results["adapters"], "cells": []}})

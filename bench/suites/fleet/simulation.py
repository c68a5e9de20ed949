"""Event-driven simulation of requests for thousands of adapters on many replicas, with the real router and queue."""

import asyncio
import heapq
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np

from fourshot.bench.suites.fleet.replica import ServiceTimes, SimulatedReplica, SimulatedRequest
from fourshot.serving.api import TASK_PATHS
from fourshot.serving.fleet.router import SPARE, Replica, Router, preference
from fourshot.serving.settings import Limits

WARM_DRAWS = 1500  # requests per replica that fill its memory before the clock starts
WARM_S = 5.0  # initial simulated seconds, excluded from the result


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario to simulate."""

    routing: str  # of `ROUTINGS`
    replicas: int
    rate: float  # requests per second over all replicas
    adapters: int
    zipf: float
    memory: int  # adapters that a replica keeps in memory beside its slots
    seconds: float
    seed: int = 0
    burst: tuple[float, float, float] = (0.0, 0.0, 0.0)  # from, to (s), additional requests/s, all for one adapter
    loss: tuple[float, float] = (0.0, 0.0)  # from, to (s): one replica is down; it returns with empty memory


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a scenario. Latencies are of answered requests, from their first arrival."""

    requests: int
    answered: int
    refused: int
    moved: int  # requests moved to another replica, because theirs died
    p50_ms: float
    p99_ms: float
    slot_share: float  # share of requests whose adapter was in a slot when their step began
    disk_share: float  # share of requests whose adapter was read from disk
    busy: float  # share of time in which a replica computed, mean over replicas
    busiest: float  # the same for the busiest replica


Route = Callable[[Router, str, random.Random], Replica]


def _healthy(router: Router) -> list[Replica]:
    return [replica for replica in router.replicas if replica.healthy]


def _random(router: Router, task: str, draw: random.Random) -> Replica:
    return draw.choice(_healthy(router))


def _rendezvous(router: Router, task: str, draw: random.Random) -> Replica:
    healthy = _healthy(router)
    return healthy[preference(task, tuple(replica.number for replica in healthy))[0]]


def _bounded(router: Router, task: str, draw: random.Random) -> Replica:
    return router.order(f"{TASK_PATHS[0]}{task}")[0]


ROUTINGS: dict[str, Route] = {
    "random": _random,
    "least loaded": lambda router, _, draw: min(_healthy(router), key=lambda peer: (peer.in_flight, draw.random())),
    "rendezvous": _rendezvous,
    "bounded rendezvous": _bounded,  # what `fourshot serve --replicas` does
    "bounded, loosely": _bounded,
}
WARMED = {"random": _random, "least loaded": _random}  # routing for the warm-up; others use `_rendezvous`
SPARES = {"bounded, loosely": 8}  # requests allowed above the bound, where it differs from the router's own number
PLAIN = tuple(name for name in ROUTINGS if name not in SPARES)


def simulate(scenario: Scenario, times: ServiceTimes) -> SimulationResult:
    """Simulate ``scenario``. The result depends on its seed, but not on the machine."""

    async def inside_a_loop() -> SimulationResult:  # the queue creates futures in it; nothing is awaited
        return _Simulation(scenario, times).run()

    return asyncio.run(inside_a_loop())


def arrivals(scenario: Scenario) -> list[SimulatedRequest]:
    """Return the requests in order of time: a Poisson process with tasks by Zipf's law, and those of the burst."""
    draw = np.random.default_rng(scenario.seed)

    def poisson(start: float, end: float, rate: float) -> np.ndarray:
        return np.sort(draw.uniform(start, end, draw.poisson(rate * (end - start))))

    times = poisson(0.0, scenario.seconds, scenario.rate)
    ranks = draw.choice(scenario.adapters, size=len(times), p=_popularity(scenario))
    requests = [SimulatedRequest(at, f"task-{rank}") for at, rank in zip(times.tolist(), ranks.tolist(), strict=True)]
    start, end, rate = scenario.burst
    rare = f"task-{scenario.adapters // 2}"
    return sorted([*requests, *(SimulatedRequest(at, rare) for at in poisson(start, end, rate).tolist())])


def _popularity(scenario: Scenario) -> np.ndarray:
    weights = np.arange(1, scenario.adapters + 1) ** -scenario.zipf
    return np.asarray(weights / weights.sum())


class _Simulation:
    def __init__(self, scenario: Scenario, times: ServiceTimes) -> None:
        self.scenario, self.now, self.draw = scenario, 0.0, random.Random(scenario.seed)
        self.route = ROUTINGS[scenario.routing]
        replicas = [Replica(number, "") for number in range(scenario.replicas)]
        self.router = Router(replicas, Limits(), "", SPARES.get(scenario.routing, SPARE))
        self.replicas = [
            SimulatedReplica(replica, times, scenario.memory, lambda: self.now) for replica in self.router.replicas
        ]
        self.events: list[tuple[float, int, int, Any]] = []  # heap: time, order, replica's number, step
        self.steps = 0
        self.latencies: list[float] = []
        self.refused = self.moved = 0

    def run(self) -> SimulationResult:
        for replica in self.router.replicas:
            replica.healthy = True
        self._warm()
        requests = arrivals(self.scenario)
        queue: list[tuple[float, int, Callable[[], None]]] = []  # time, order, action
        queue += [(request.at_s, order, partial(self._arrive, request)) for order, request in enumerate(requests)]
        lost_at, returns_at = self.scenario.loss
        if returns_at:
            queue += [(lost_at, -1, self._lose_replica), (returns_at, -1, self._return)]
        for at, _, action in sorted(queue, key=lambda entry: entry[:2]):
            self._until(at)
            self.now = at
            action()
        self._until(float("inf"))
        return self._outcome(sum(request.at_s >= WARM_S for request in requests))

    def _warm(self) -> None:
        """Fill the replicas' memory as after a long time, with requests that take no time."""
        scenario, route = self.scenario, WARMED.get(self.scenario.routing, _rendezvous)
        draws = np.random.default_rng(scenario.seed + 1)
        number = WARM_DRAWS * scenario.replicas
        for rank in draws.choice(scenario.adapters, size=number, p=_popularity(scenario)).tolist():
            task = f"task-{rank}"
            self.replicas[route(self.router, task, self.draw).number].bring(task)

    def _until(self, at: float) -> None:
        """Process all steps that end by the time ``at``, and begin the next ones."""
        while self.events and self.events[0][0] <= at:
            self.now, _, number, step = heapq.heappop(self.events)
            replica = self.replicas[number]
            if replica.step is not step:  # the replica died meanwhile
                continue
            self.latencies += [self.now - request.at_s for request in replica.end_step() if request.at_s >= WARM_S]
            self._begin(replica)

    def _begin(self, replica: SimulatedReplica) -> None:
        seconds = replica.begin_step()
        if seconds is not None:
            self.steps += 1
            heapq.heappush(self.events, (self.now + seconds, self.steps, replica.router.number, replica.step))

    def _arrive(self, request: SimulatedRequest) -> None:
        replica = self.replicas[self.route(self.router, request.task, self.draw).number]
        if replica.accept(request):
            self._begin(replica)
        else:
            self.refused += request.at_s >= WARM_S

    def _lose_replica(self) -> None:
        """Lose replica 0. The router notices at once, because connections break, and reroutes its requests."""
        replica = self.replicas[0]
        replica.router.healthy = False
        for request in replica.give_up():
            self.moved += 1
            self._arrive(request)

    def _return(self) -> None:
        self.replicas[0].router.healthy = True

    def _outcome(self, requests: int) -> SimulationResult:
        uses = {kind: sum(replica.uses[kind] for replica in self.replicas) for kind in ("slot", "memory", "disk")}
        busy = [replica.busy_s / max(self.now, self.scenario.seconds) for replica in self.replicas]
        p50, p99 = np.percentile(self.latencies, (50, 99)) * 1000
        return SimulationResult(
            requests=requests,
            answered=len(self.latencies),
            refused=self.refused,
            moved=self.moved,
            p50_ms=float(p50),
            p99_ms=float(p99),
            slot_share=uses["slot"] / sum(uses.values()),
            disk_share=uses["disk"] / sum(uses.values()),
            busy=sum(busy) / len(busy),
            busiest=max(busy),
        )

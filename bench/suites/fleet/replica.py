"""A simulated replica: the service's real queue with a simulated clock, and an engine that consists of measured times.

All times come from results of other suites.
"""

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from fourshot.engine.errors import InputError
from fourshot.serving.answers import RefusalError
from fourshot.serving.fleet.router import Replica
from fourshot.serving.models.dispatcher import Dispatcher
from fourshot.serving.settings import Limits

WINDOW_TOKENS = 4096  # tokens in the engine at once, as of a server on a CPU
MOST_TEXTS = 128  # texts in a step
TASK = "sst2"  # the task that all three suites send
ONE_ADAPTER, SEVERAL_ADAPTERS = "lora", "lora_many"  # variants of the latency suite
SIZES = (1, 4, 16, 64)  # texts per step
MOST_CLIENTS = 16  # clients with which the serving suite measures the capacity


class ServiceTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Times of one replica on the measured machine."""

    texts: tuple[int, ...]  # texts per step, ascending
    one_ms: tuple[float, ...]  # time of a step of that many texts for one adapter
    several_ms: tuple[float, ...]  # the same for `adapters` different adapters
    adapters: int
    http_ms: float  # time per text outside the engine
    memory_ms: float  # time to copy an adapter from memory into a slot
    disk_ms: float  # time to read an adapter from disk into a slot
    prompt_tokens: int  # per text
    slots: int  # slots of the measured engine

    def step_s(self, texts: int, adapters: int, from_memory: int, from_disk: int) -> float:
        """Return the seconds of a step of ``texts`` texts for ``adapters`` adapters.

        ``from_memory`` and ``from_disk``: the numbers of adapters loaded into a slot. Times are interpolated linearly
        between the measured sizes, and proportional to the number of texts beyond the largest.
        """
        one_s, several_s = (self._of(texts, times) for times in (self.one_ms, self.several_ms))
        mixed = min(1.0, (adapters - 1) / (self.adapters - 1))
        engine = one_s + mixed * (several_s - one_s)
        loads = from_memory * self.memory_ms + from_disk * self.disk_ms
        return (engine + texts * self.http_ms + loads) / 1000

    def _of(self, texts: int, times: tuple[float, ...]) -> float:
        if texts > self.texts[-1]:
            return times[-1] * texts / self.texts[-1]
        return float(np.interp(texts, self.texts, times))

    @property
    def capacity_per_s(self) -> float:
        """Texts per second in steps with one text for each of `adapters`, all in their slots."""
        return self.adapters / self.step_s(self.adapters, self.adapters, 0, 0)


def read_times(latency: Mapping[str, Any], serving: Mapping[str, Any], adapters: Mapping[str, Any]) -> ServiceTimes:
    """Derive the times from results of the three suites. Raises InputError if a cell is missing.

    A closed loop of n concurrent requests counts as steps of n texts.
    """
    one_s, several_s = (steps(latency, variant) for variant in (ONE_ADAPTER, SEVERAL_ADAPTERS))
    over_http, in_process = serving["capacity_per_s"], MOST_CLIENTS / several_s[MOST_CLIENTS]
    return ServiceTimes(
        texts=tuple(one_s),
        one_ms=tuple(1000 * seconds for seconds in one_s.values()),
        several_ms=tuple(1000 * seconds for seconds in several_s.values()),
        adapters=latency["settings"]["many_adapters"],
        http_ms=max(0.0, 1000 * (1 / over_http - 1 / in_process)),
        memory_ms=_load_ms(adapters, "memory"),
        disk_ms=_load_ms(adapters, "cold"),
        prompt_tokens=round(_cell(latency, ONE_ADAPTER, 1)["prompt_tokens"]),
        slots=adapters["settings"]["slots"],
    )


def steps(latency: Mapping[str, Any], variant: str) -> dict[int, float]:
    """Return the seconds of a step by its number of texts, ascending."""
    return {size: size / _cell(latency, variant, size)["requests_per_s"]["mean"] for size in SIZES}


def _cell(latency: Mapping[str, Any], variant: str, load: int) -> Mapping[str, Any]:
    for cell in latency["cells"]:
        if (cell["route"], cell["way"], cell["task"], cell["load"]) == ("in-process", variant, TASK, load):
            return dict(cell)
    raise InputError(
        f"the latency result has no cell of {variant!r} for {TASK!r}, in process, {load} at a time. Measure it: "
        "fourshot bench latency."
    )


def _load_ms(adapters: Mapping[str, Any], kind: str) -> float:
    """Return the mean time over all loads of ``kind``. Raises InputError if there are none."""
    loads = [cell["adapter_loads"][kind] for cell in adapters["cells"] if cell["kind"] == "adapters"]
    uses = sum(load["uses"] for load in loads)
    if not uses:
        raise InputError(f"the adapters result has no load of the kind {kind!r}. Measure more adapters than slots.")
    return sum(load["uses"] * load["ms_each"] for load in loads if load["uses"]) / uses


class SimulatedRequest(NamedTuple):
    """One text and its time of arrival."""

    at_s: float
    task: str


class SimulatedReplica:
    """One server; `router` is the router's view of it.

    It must be used within a running event loop, but does not use the loop's clock.
    """

    def __init__(self, router: Replica, times: ServiceTimes, memory: int, clock: Callable[[], float]) -> None:
        """Start a replica. ``memory``: number of adapters kept in memory beside those in slots."""
        self.router, self._times, self._capacity, self._clock = router, times, memory + times.slots, clock
        self.busy_s = 0.0
        self.uses = {"slot": 0, "memory": 0, "disk": 0}  # requests by place of their adapter when their step began
        self.restart()

    def restart(self) -> None:
        """Reset to the state after a start: an empty queue, empty slots, no adapter in memory."""
        limits = Limits()
        self._dispatcher = Dispatcher(
            slots=self._times.slots,
            window_tokens=WINDOW_TOKENS,
            max_wait_s=limits.max_wait_ms / 1000,
            max_queue_s=limits.max_queue_s,
            clock=self._clock,
        )
        self._waiting: list[tuple[Coroutine[Any, Any, None], Any, SimulatedRequest]] = []
        self._in_engine: list[SimulatedRequest] = []  # given to the engine, but not in a step yet
        self.step: list[SimulatedRequest] = []
        self._slots, self._memory = OrderedDict[str, None](), OrderedDict[str, None]()
        self.router.in_flight = 0

    def accept(self, request: SimulatedRequest) -> bool:
        """Queue ``request``. Return False if the queue rejects it for the work ahead of it."""
        tokens = self._times.prompt_tokens
        try:
            self._dispatcher.check(tokens=tokens)
        except RefusalError:
            return False
        self.router.in_flight += 1
        self._advance(self._dispatcher.turn(request.task, tokens), request)
        return True

    def _advance(self, turn: Coroutine[Any, Any, None], request: SimulatedRequest) -> None:
        """Run ``turn`` until it waits for its turn, or ends and the request is given to the engine."""
        try:
            self._waiting.append((turn, turn.send(None), request))
        except StopIteration:
            self._in_engine.append(request)

    def end_step(self) -> list[SimulatedRequest]:
        """End the step in progress. Return its requests, which are now answered."""
        finished, self.step = self.step, []
        for _ in finished:
            self._dispatcher.done(self._times.prompt_tokens)
        self.router.in_flight -= len(finished)
        waiting, self._waiting = self._waiting, []
        for turn, ready, request in waiting:
            if ready.done():
                self._advance(turn, request)
            else:
                self._waiting.append((turn, ready, request))
        return finished

    def begin_step(self) -> float | None:
        """Begin a step and return its seconds; None if a step is in progress or there is no work."""
        if self.step or not self._in_engine:
            return None
        loads, later, adapters = {"slot": 0, "memory": 0, "disk": 0}, list[SimulatedRequest](), dict[str, str]()
        for request in self._in_engine:
            fits = request.task in adapters or len(adapters) < self._times.slots
            if not fits or len(self.step) == MOST_TEXTS:
                later.append(request)
                continue
            if request.task not in adapters:
                adapters[request.task] = self.bring(request.task)
                loads[adapters[request.task]] += 1
            self.uses[adapters[request.task]] += 1
            self.step.append(request)
        self._in_engine = later
        seconds = self._times.step_s(len(self.step), len(adapters), loads["memory"], loads["disk"])
        self.busy_s += seconds
        return seconds

    def bring(self, task: str) -> str:
        """Move the adapter into a slot, evicting the least recently used. Return where it was before."""
        was = "slot" if task in self._slots else "memory" if task in self._memory else "disk"
        for cache, capacity in ((self._slots, self._times.slots), (self._memory, self._capacity)):
            cache[task] = None
            cache.move_to_end(task)
            if len(cache) > capacity:
                cache.popitem(last=False)
        return was

    def give_up(self) -> list[SimulatedRequest]:
        """Simulate the replica's death. Return the requests it had accepted but not answered."""
        lost = [*self.step, *self._in_engine, *(request for *_, request in self._waiting)]
        for turn, *_ in self._waiting:
            turn.close()
        self.restart()
        return lost

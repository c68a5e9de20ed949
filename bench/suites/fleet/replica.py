"""A replica that is not there: the service's own queue by a clock that the simulation moves, and an engine by times."""

from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from fourshot.bench.suites.fleet.times import ServiceTimes
from fourshot.serving.answers import RefusalError
from fourshot.serving.fleet.router import Replica
from fourshot.serving.models.dispatcher import Dispatcher
from fourshot.serving.settings import Limits

WINDOW_TOKENS = 4096  # in the engine at once, as a server on a CPU allows
MOST_TEXTS = 128  # in a step


class SimulatedRequest(NamedTuple):
    """One text, which arrived then."""

    at_s: float
    task: str


class SimulatedReplica:
    """One server. `router` is how the router sees it. Must be used in a running event loop, whose time is not used."""

    def __init__(self, router: Replica, times: ServiceTimes, memory: int, clock: Callable[[], float]) -> None:
        """``memory``: adapters beside those in slots that are not read from disk."""
        self.router, self._times, self._capacity, self._clock = router, times, memory + times.slots, clock
        self.busy_s = 0.0
        self.uses = {"slot": 0, "memory": 0, "disk": 0}  # requests, by where their adapter was when their step began
        self.restart()

    def restart(self) -> None:
        """As after its start: an empty queue, empty slots, no adapter in memory."""
        limits = Limits()
        self._dispatcher = Dispatcher(
            slots=self._times.slots,
            window_tokens=WINDOW_TOKENS,
            max_wait_s=limits.max_wait_ms / 1000,
            max_queue_s=limits.max_queue_s,
            clock=self._clock,
        )
        self._waiting: list[tuple[Coroutine[Any, Any, None], Any, SimulatedRequest]] = []
        self._in_engine: list[SimulatedRequest] = []  # handed to the engine, and not in a step yet
        self.step: list[SimulatedRequest] = []
        self._slots, self._memory = OrderedDict[str, None](), OrderedDict[str, None]()
        self.router.in_flight = 0

    def accept(self, request: SimulatedRequest) -> bool:
        """False where it is refused for the work ahead of it."""
        tokens = self._times.prompt_tokens
        try:
            self._dispatcher.check(tokens=tokens)
        except RefusalError:
            return False
        self.router.in_flight += 1
        turn = self._dispatcher.turn(request.task, tokens)
        try:
            self._waiting.append((turn, turn.send(None), request))
        except StopIteration:
            self._in_engine.append(request)
        return True

    def end_step(self) -> list[SimulatedRequest]:
        """What was answered."""
        finished, self.step = self.step, []
        for _ in finished:
            self._dispatcher.done(self._times.prompt_tokens)
        self.router.in_flight -= len(finished)
        waiting = self._waiting
        self._waiting = []
        for turn, ready, request in waiting:
            if not ready.done():
                self._waiting.append((turn, ready, request))
                continue
            try:
                turn.send(None)
            except StopIteration:
                self._in_engine.append(request)
        return finished

    def begin_step(self) -> float | None:
        """Begin a step where there is work and none is computed; the seconds it takes."""
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
        """Have the adapter in a slot, the least recently used one leaving it; where it was before."""
        was = "slot" if task in self._slots else "memory" if task in self._memory else "disk"
        for cache, capacity in ((self._slots, self._times.slots), (self._memory, self._capacity)):
            cache[task] = None
            cache.move_to_end(task)
            if len(cache) > capacity:
                cache.popitem(last=False)
        return was

    def give_up(self) -> list[SimulatedRequest]:
        """It dies: what it had accepted and not answered."""
        lost = [*self.step, *self._in_engine, *(request for *_, request in self._waiting)]
        for turn, *_ in self._waiting:
            turn.close()
        self.restart()
        return lost

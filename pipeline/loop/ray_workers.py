"""Engines on a Ray cluster: one per GPU, or per two cores if there is none. The only module here that imports ray.

Each actor has a `LocalWorker`, so an engine that dies is restarted on the same machine. If a machine leaves, the units
of its actors are given to others. Machines that join are used as soon as they are seen. A machine whose actors cannot
work, because its disk is full or a folder is missing, for example, is excluded. The work ends only if all are excluded.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from fourshot.engine.core import EngineSettings
from fourshot.engine.errors import FourshotError
from fourshot.engine.machine.processes import ChildFailure
from fourshot.engine.machine.temporary import process_folder
from fourshot.engine.machine.threads import ENGINE_SPINS
from fourshot.pipeline.loop.local_worker import MOST_DEATHS, LocalWorker, requests_ahead
from fourshot.pipeline.loop.units import TaskBrief, Unit, UnitKey, UnitProgress, UnitResult
from fourshot.training.jobs.cluster import (
    CORES_PER_DEVICE,
    NOTICE_S,
    cluster,
    device_resources,
    has_gpus,
    nodes,
    on_node,
    reason_of,
)
from fourshot.training.jobs.machines import MachineSetup, machine_name, machine_setup, prepare_machine

ASK_S = 0.5  # how long an actor waits for results before it returns none
LOOK_S = 5.0  # between two checks for machines that have joined
ALONE_S = 600.0  # without any engine, after which the work ends


class _ActorState(msgspec.Struct):
    """One actor, from the driver's point of view."""

    actor: Any
    node: str  # of Ray
    call: Any = None  # reference of the last call
    has_answered: bool = False
    has_worked: bool = False  # it returned a result; it may answer before its engine is open
    introduced: set[str] = msgspec.field(default_factory=set)  # keys of the briefs that it has
    units: dict[UnitKey, Unit] = {}  # that it was given, or will be with the next call
    new: list[Unit] = []  # those of ``units`` that will be sent with the next call

    @property
    def requests(self) -> int:
        return sum(unit.size for unit in self.units.values())


class RayWorkers:
    """Workers on a Ray cluster: actors that join and leave, and the units that each has."""

    def __init__(
        self,
        engine: EngineSettings,
        address: str,
        folders: Sequence[str] = (),
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """``address``: "local", "auto" or a cluster's; ``folders``: of adapters, which every machine must see.

        ``tell`` is called with a message about each machine that is excluded, and if no engine starts.

        Raises InputError if there is no cluster.
        """
        self._engine, self._briefs = engine, dict[str, TaskBrief]()
        self._actors: list[_ActorState] = []
        self._again: list[Unit] = []  # of actors that were lost, to be given to others
        self.starts = 0  # of actors
        self._faults = Counter[str]()  # by node: actors that could not work, since the last result from there
        self._tell = tell
        self._looked_s = float("-inf")
        self._connection = contextlib.ExitStack()
        self._connection.enter_context(cluster(address, ENGINE_SPINS))
        try:
            self._setup = self._connection.enter_context(machine_setup(engine.model, folders=folders))
            self._most_requests = requests_ahead(engine, on_gpu=has_gpus())
            self._last_seen_s = self._last_answer_s = time.monotonic()
            self._look()
        except BaseException:
            self._connection.close()
            raise

    def has_room(self) -> bool:
        """Return whether any actor that has answered has too little to do. This limits the units that are given."""
        return not self._again and any(self._has_room(state) for state in self._actors)

    def give(self, unit: Unit, brief: TaskBrief) -> None:
        """Give a unit to the actor with the fewest requests."""
        self._briefs[unit.brief] = brief
        state = min(self._actors, key=lambda state: (not self._has_room(state), state.requests))
        state.units[unit.key] = unit
        state.new.append(unit)
        if state.call is None:
            self._ask(state)

    def wait(self, timeout_s: float) -> list[UnitResult | UnitProgress]:
        """Return messages since the last call; none after ``timeout_s``.

        Raises what opening an engine raised, and FourshotError after `ALONE_S` without any actor.
        """
        import ray

        self._look()
        calls = {state.call: state for state in self._actors if state.call is not None}
        if not calls:
            time.sleep(timeout_s)
            return []
        results: list[UnitResult | UnitProgress] = []
        first, _ = ray.wait(list(calls), timeout=timeout_s)
        ended, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0) if first else ([], [])
        for call in ended:
            results += self._take_answer(calls[call])
        while self._again and any(self._has_room(state) for state in self._actors):
            unit = self._again.pop(0)
            self.give(unit, self._briefs[unit.brief])
        return results

    def close(self) -> None:
        """End all actors, and Ray if it was started for them."""
        import ray

        for state in self._actors:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(state.actor)
        self._actors = []
        self._connection.close()

    def _has_room(self, state: _ActorState) -> bool:
        return state.has_answered and state.requests < self._most_requests

    def _ask(self, state: _ActorState) -> None:
        """Send an actor its new units and briefs, and request finished results."""
        briefs = [
            self._briefs[name]
            for name in dict.fromkeys(unit.brief for unit in state.new)
            if name not in state.introduced
        ]
        state.introduced |= {brief.key for brief in briefs}
        state.call = state.actor.exchange.remote(msgspec.json.encode(briefs), msgspec.json.encode(state.new))
        state.new = []

    def _take_answer(self, state: _ActorState) -> list[UnitResult | UnitProgress]:
        import ray

        try:
            answer = msgspec.json.decode(ray.get(state.call), type=list[UnitResult | UnitProgress] | ChildFailure)
        except ray.exceptions.RayError as error:  # the actor died, or its machine left
            failure = FourshotError(f"An actor died before it had a result: {reason_of(error)}")
            self._lose(state, failure, is_fault=not state.has_worked and state.node in nodes(self._engine.gpus))
            return []
        if isinstance(answer, ChildFailure):
            self._lose(state, answer.error(), is_fault=True)
            return []
        state.has_answered = True
        results = [
            message
            for message in answer
            if isinstance(message, UnitProgress) or state.units.pop(message.unit.key, None) is not None
        ]
        if results:
            state.has_worked = True
            del self._faults[state.node]
        self._ask(state)
        return results

    def _lose(self, state: _ActorState, failure: FourshotError, *, is_fault: bool) -> None:
        """Remove an actor; its units go to others. ``is_fault``: count against its machine, which may be excluded.

        Raises ``failure`` if all machines are excluded, and none of their actors is left.
        """
        import ray

        ray.kill(state.actor)
        self._actors.remove(state)
        self._again += state.units.values()
        self._faults[state.node] += is_fault
        if not is_fault or self._faults[state.node] < MOST_DEATHS:
            return
        if self._faults[state.node] == MOST_DEATHS:
            self._tell(f"a machine is excluded after {MOST_DEATHS} failures: {failure}")
        if not self._actors and all(self._faults[node] >= MOST_DEATHS for node in nodes(self._engine.gpus)):
            raise failure

    def _look(self) -> None:
        """Start an actor on each device that has none. Raises FourshotError after `ALONE_S` without any actor."""
        now = time.monotonic()
        if any(state.has_answered for state in self._actors):
            self._last_answer_s = now
        elif now - self._last_answer_s > NOTICE_S:
            self._last_answer_s = float("inf")  # until one answers
            self._tell(
                f"no engine has started on the Ray cluster for {NOTICE_S:.0f} s. Its machines may have other work "
                "(`ray status`), or still fetch the base model. The command waits."
            )
        if self._actors:
            self._last_seen_s = now
        elif now - self._last_seen_s > ALONE_S:
            gpus = self._engine.gpus
            raise FourshotError(
                f"The Ray cluster has had no machine with {gpus} GPU{'s' if gpus > 1 else ''}, or with "
                f"{CORES_PER_DEVICE * gpus} cores where there is no GPU, for {ALONE_S:.0f} s, other than excluded "
                "ones. Finished work is kept; run the same command again when there is one (`ray status`)."
            )
        if now - self._looked_s < LOOK_S and self._actors:
            return
        self._looked_s = now
        actor_counts = Counter(state.node for state in self._actors)
        for node, devices in nodes(self._engine.gpus).items():
            for _ in range(devices - actor_counts[node] if self._faults[node] < MOST_DEATHS else 0):
                self._actors.append(self._start(node))
                self._ask(self._actors[-1])

    def _start(self, node: str) -> _ActorState:
        import ray

        self.starts += 1
        # Ray does not restart it: its units go to any actor that has room.
        options = {"scheduling_strategy": on_node(node), **device_resources(self._engine.gpus)}
        actor = ray.remote(max_restarts=0, max_task_retries=0, **options)(_Actor)
        return _ActorState(actor=actor.remote(msgspec.json.encode(self._engine), self._setup), node=node)


class _Actor:
    """Actor on a machine of the cluster: an engine, in a process of its own."""

    def __init__(self, engine: bytes, setup: MachineSetup) -> None:
        self._engine, self._setup = msgspec.json.decode(engine, type=EngineSettings), setup
        self._worker: LocalWorker | None = None  # None until the first call, which may return why it cannot be opened
        self._briefs: dict[str, TaskBrief] = {}

    def exchange(self, briefs: bytes, units: bytes) -> bytes:
        """Accept encoded briefs and units; return encoded results, or a `ChildFailure` if the engine cannot work."""
        try:
            if self._worker is None:
                self._worker = self._open()
            for brief in msgspec.json.decode(briefs, type=list[TaskBrief]):
                self._briefs[brief.key] = brief
            for unit in msgspec.json.decode(units, type=list[Unit]):
                self._worker.give(unit, self._briefs[unit.brief])
            return msgspec.json.encode(self._worker.wait(ASK_S))
        except (FourshotError, OSError) as error:
            failure = ChildFailure.of(error)
            return msgspec.json.encode(msgspec.structs.replace(failure, message=f"{machine_name()}: {failure.message}"))

    def _open(self) -> LocalWorker:
        """Return a worker with the base model of this machine. Raises FourshotError or OSError if that fails."""
        model = prepare_machine(self._setup) or self._engine.model
        log = process_folder("fourshot-engine-") / "log.txt"
        return LocalWorker(msgspec.structs.replace(self._engine, model=model), log)

"""A Ray cluster with several nodes on this machine, for tests."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from fourshot.pipeline.loop.ray_workers import RayWorkers
from fourshot.pipeline.loop.units import UnitProgress, UnitResult
from fourshot.training.jobs.jobs import Placement
from tests.training.jobs.fake_trainer import MACHINE, install

STORE_BYTES = 80 << 20
SOON = {"health_check_period_ms": 500, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}
PLACEMENT = Placement(ray="auto")  # uses the connection of the fixture


class Machines:
    """The cluster: a head without devices, for the driver, and nodes of one device (two CPUs) each."""

    def __init__(self) -> None:
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES,
                "_system_config": SOON,
            },
        )
        self.nodes: dict[str, Any] = {}

    def add(self, name: str) -> None:
        self.nodes[name] = self.cluster.add_node(
            num_cpus=2, object_store_memory=STORE_BYTES, env_vars={MACHINE: name}, wait=True
        )

    def kill(self, name: str) -> None:
        """Kill the raylet and all of its workers at once, as if the machine had died."""
        raylet = psutil.Process(self.nodes.pop(name).all_processes["raylet"][0].process.pid)
        for process in [raylet, *raylet.children(recursive=True)]:
            process.kill()


def runtime(setup: Callable[[], None] = install) -> dict[str, Any]:
    """Return a runtime environment: workers have this process's import path, and ``setup`` replaces their trainer."""
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return {"env_vars": variables, "worker_process_setup_hook": setup}


@contextlib.contextmanager
def two_machines(setup: Callable[[], None] = install) -> Iterator[Machines]:
    """Start machines "a" and "b", and connect to them."""
    group = Machines()
    try:
        group.add("a")
        group.add("b")
        ray.init(group.cluster.address, log_to_driver=False, runtime_env=runtime(setup))
        yield group
    finally:
        ray.shutdown()
        group.cluster.shutdown()


def kill_in_the_middle(machines: Machines, name: str, patch: pytest.MonkeyPatch) -> None:
    """Kill a machine as soon as two engines have finished a unit each."""
    in_the_middle(lambda: machines.kill(name), patch)


def in_the_middle(happens: Callable[[], None], patch: pytest.MonkeyPatch, engines: int = 2) -> None:
    """Call ``happens`` once, as soon as all ``engines`` engines have finished a unit each."""
    heard: set[str] = set()
    has_happened = False
    wait, has_room = RayWorkers.wait, RayWorkers.has_room

    def listen(workers: RayWorkers, timeout_s: float) -> list[UnitResult | UnitProgress]:
        nonlocal has_happened
        results = wait(workers, timeout_s)
        heard.update(result.engine for result in results if isinstance(result, UnitResult))
        if len(heard) == engines and not has_happened:
            has_happened = True
            happens()
        return results

    def all_answer(workers: RayWorkers) -> bool:
        return len(workers._actors) == engines and all(state.has_answered for state in workers._actors)

    # No unit is given out before all engines are ready, because the first might finish all units.
    patch.setattr(RayWorkers, "has_room", lambda workers: has_room(workers) and (bool(heard) or all_answer(workers)))
    patch.setattr(RayWorkers, "wait", listen)

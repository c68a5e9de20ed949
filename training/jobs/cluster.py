"""The one home of Ray's set-up: being connected, what workers are given, and what a cluster has.

A room that spreads work imports ray in one module of its own, for its tasks or actors, and takes all else from here.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.threads import TRAIN_SPINS, available_cores, waiting_briefly

CORES_PER_DEVICE = 2  # what stands for a GPU where there is none
CONNECT_S = 10.0
OBJECT_STORE_BYTES = 200 << 20  # what we send is small; Ray would take a third of the memory


@contextmanager
def cluster(address: str, spins: str = TRAIN_SPINS) -> Iterator[None]:
    """Be connected to Ray; leaves a connection alone that the caller had.

    ``address``: "local" starts Ray on this machine for the time of the block, "auto" joins the cluster that this
    machine belongs to, anything else is a cluster's address. ``spins`` of workers: see `engine.threads`. Raises
    InputError where there is no cluster.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    # Workers import what the driver imports, wherever that is installed.
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TOKENIZERS_PARALLELISM": "false"}
    runtime = {"env_vars": waiting_briefly(variables, spins)}
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "runtime_env": runtime}
    try:
        if address == "local":
            cores = max(available_cores(), CORES_PER_DEVICE)
            local = {"num_cpus": cores, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
            ray.init(address="local", **local, **quiet)
        else:
            _check_listening(address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"There is no Ray cluster at {address!r}: {error}. Give 'local' to start Ray on this machine, 'auto' on a "
            "machine of a cluster (`ray start`), or the address of its head, like 10.0.0.1:6379."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def machines() -> list[dict[str, float]]:
    """Resources of each machine that is alive: "GPU", "CPU" and others."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def has_gpus() -> bool:
    return any(machine.get("GPU", 0) for machine in machines())


def num_devices() -> int:
    """GPUs of the whole cluster, or `CORES_PER_DEVICE` cores each where it has none."""
    if has_gpus():
        return int(sum(machine.get("GPU", 0) for machine in machines()))
    return int(sum(machine.get("CPU", 0) // CORES_PER_DEVICE for machine in machines()))


def device_resources(count: int = 1) -> dict[str, float]:
    """What a task or actor asks of Ray for ``count`` devices on one machine."""
    return {"num_gpus": count, "num_cpus": 0} if has_gpus() else {"num_cpus": CORES_PER_DEVICE * count}


def check_devices(count: int) -> None:
    """Raise FourshotError where no machine has ``count`` devices for one training."""
    gpus, cores = (int(max(machine.get(kind, 0) for machine in machines())) for kind in ("GPU", "CPU"))
    if gpus < count and (gpus or cores < CORES_PER_DEVICE * count):
        raise FourshotError(
            f"No machine of the Ray cluster has enough: at most {gpus} GPUs and {cores} cores, and a training needs "
            f"{count} GPU{'s' if count > 1 else ''}, or {CORES_PER_DEVICE * count} cores where there is no GPU."
        )


def _check_listening(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for two minutes and then end the process."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()

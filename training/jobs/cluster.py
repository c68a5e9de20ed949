"""The one home of Ray's set-up: being connected, what workers are given, and what a cluster has.

A room that spreads work imports ray in one module of its own, for its tasks or actors, and takes all else from here.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.gpus import check_gpus
from fourshot.engine.machine.processes import import_path
from fourshot.engine.machine.threads import TRAIN_SPINS, available_cores, waiting_briefly

CORES_PER_DEVICE = 2  # what stands for a GPU where there is none
STEP_S = 4.0  # for each address of a host to be connected to, and for each part of a greeting
ANSWER_S = 10.0  # for a cluster to have answered, its name looked up and its first call included
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and an empty SETTINGS frame
OBJECT_STORE_BYTES = 200 << 20  # what we send is small; Ray would take a third of the memory


@contextmanager
def cluster(address: str, spins: str = TRAIN_SPINS) -> Iterator[None]:
    """Be connected to Ray; leaves a connection alone that the caller had.

    ``address``: "local" starts Ray on this machine for the time of the block, "auto" joins the cluster that this
    machine belongs to, anything else is a cluster's address. ``spins`` of workers: see `engine.machine.threads`. Raises
    InputError where there is no cluster.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    # Workers import what the driver imports, wherever that is installed.
    variables = {"PYTHONPATH": import_path(), "TOKENIZERS_PARALLELISM": "false"}
    runtime = {"env_vars": waiting_briefly(variables, spins)}
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "runtime_env": runtime}
    try:
        if address == "local":
            cores = max(available_cores(), CORES_PER_DEVICE)
            local = {"num_cpus": cores, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
            ray.init(address="local", **local, **quiet)
        else:
            _check_answering(address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = str(error).rstrip(".")
        if isinstance(error, ray.exceptions.RayError):  # of a token, above all; Ray's own words are for "auto"
            reason = f"{reason.splitlines()[0]} (a cluster with tokens: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN)"
        raise InputError(
            f"There is no Ray cluster at {address!r}: {reason}. Give 'local' to start Ray on this machine, 'auto' on a "
            "machine of a cluster (`ray start`), or the address of its head, like 10.0.0.1:6379."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def check_cluster(address: str, gpus_per_engine: int = 1) -> None:
    """Raise InputError where the cluster is not there, before anything is made; "" and "local" need none.

    Without a cluster, this machine has to have the GPUs.
    """
    if not address:
        check_gpus(gpus_per_engine)
    if address not in ("", "local"):
        with cluster(address):
            pass


def machines() -> list[dict[str, float]]:
    """Resources of each machine that is alive: "GPU", "CPU" and others."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def nodes(together: int = 1) -> dict[str, int]:
    """Devices of each machine that is alive and has any, by its node's id: GPUs, or `CORES_PER_DEVICE` cores each
    where the cluster has no GPU; so many ``together`` count as one.
    """
    import ray

    kind, per_device = ("GPU", together) if has_gpus() else ("CPU", CORES_PER_DEVICE * together)
    devices_of = {
        node["NodeID"]: int(node["Resources"].get(kind, 0) // per_device) for node in ray.nodes() if node["Alive"]
    }
    return {node: devices for node, devices in devices_of.items() if devices}


def on_node(node: str, *, soft: bool = False) -> Any:
    """Has a task or actor placed on that node; elsewhere where it is gone, if ``soft``."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=soft)


def has_gpus() -> bool:
    return any(machine.get("GPU", 0) for machine in machines())


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


def _check_answering(address: str) -> None:
    """Raise OSError, ValueError or RayError within seconds where no cluster answers: Ray itself would try for minutes.

    ``address``: "auto" is `RAY_ADDRESS`, or the cluster that this machine was last part of.
    """
    from ray._private import services

    bootstrap, origin = address, ""
    if address == "auto":
        bootstrap = os.environ.get("RAY_ADDRESS", "")
        origin = f"RAY_ADDRESS is {bootstrap!r}: " if bootstrap else ""
        if bootstrap in ("", "auto"):
            bootstrap = services.canonicalize_bootstrap_address_or_die("auto")
            origin = f"{bootstrap}, where one was started: "
    scheme, _, place = bootstrap.rpartition("://")
    if bootstrap == "local" or scheme not in ("", "ray"):  # Ray has clients of others
        return
    host, _, port = place.rpartition(":")
    if not (host and port.isdigit() and int(port) < 1 << 16):
        raise ValueError(f"{origin}{bootstrap!r} is no HOST:PORT")
    try:
        _within(ANSWER_S, lambda: _call(host.strip("[]"), int(port), is_head=not scheme))
    except OSError as error:
        raise OSError(f"{origin}{error}") from error
    find_node_ids = getattr(services, "find_node_ids", None)  # of later versions, which wait a minute for one
    if not scheme and find_node_ids and not find_node_ids():
        raise OSError(f"{origin}it answers, and this machine is not part of it (`ray start --address={bootstrap}`)")


def _within(seconds: float, call: Callable[[], None]) -> None:
    """Raise what ``call`` raises, and TimeoutError where it takes longer: it goes on in a thread that nobody awaits.

    Neither the look-up of a name nor Ray's own first call can be given a time.
    """
    errors: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:  # of whichever kind, it is raised where somebody waits
            errors.append(error)

    calling = threading.Thread(target=run, daemon=True)
    calling.start()
    calling.join(seconds)
    if calling.is_alive():
        raise TimeoutError(f"nobody answered within {seconds:.0f} s")
    if errors:
        raise errors[0]


def _call(host: str, port: int, *, is_head: bool) -> None:
    """Raise OSError or RayError where what listens there is no Ray.

    It has to greet as gRPC servers do, and a head (not a Ray client's server) has to say which cluster it is of.
    Source: RFC 9113, section 3.4 (the first frame of a server is SETTINGS, type 4).
    """
    try:
        with socket.create_connection((host, port), timeout=STEP_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):  # before a handshake, it greets nobody
                connection.sendall(GREETING)
                frame = b""
                while len(frame) < 4 and (part := connection.recv(9)):
                    frame += part
                if frame[3:4] != b"\x04":
                    raise OSError("what listens there is no Ray")
    except TimeoutError:
        raise TimeoutError(f"nobody answered within {STEP_S:.0f} s") from None
    if is_head:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        GcsClient(address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

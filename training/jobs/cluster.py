"""Set-up of Ray: connecting to a cluster, the environment of its workers, and the devices it has.

A package that distributes work imports ray in one module of its own, for its tasks or actors, and uses this module for
everything else.
"""

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.gpus import check_gpus
from fourshot.engine.machine.processes import import_path
from fourshot.engine.machine.threads import TRAIN_SPINS, available_cores, waiting_briefly

CORES_PER_DEVICE = 2  # cores that count as one device if the cluster has no GPU
STEP_S = 4.0  # timeout for connecting to each address of a host, and for each receive of a greeting
NOTICE_S = 60.0  # without any work on the cluster, after which the user is told that it waits
ANSWER_S = 10.0  # timeout for a cluster to respond, including name resolution and the first call
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # preface, empty SETTINGS frame
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # terminal colour codes in Ray's messages
LOGS = "/tmp/ray/session_latest/logs"  # of Ray, where the environment names no other place
OBJECT_STORE_BYTES = 200 << 20  # our objects are small; Ray would reserve a third of the memory


@contextmanager
def cluster(address: str, spins: str = TRAIN_SPINS) -> Iterator[None]:
    """Connect to Ray for the duration of the block; an existing connection is used and left open.

    ``address``: "local" starts Ray on this machine for the duration of the block, "auto" joins the cluster that this
    machine belongs to, anything else is a cluster's address. ``spins`` of workers: see `engine.machine.threads`. Raises
    InputError if there is no cluster, and FourshotError if Ray cannot be started here.
    """
    _check_installed()
    import ray

    if ray.is_initialized():
        yield
        return
    # Workers must find the same packages as the driver, wherever these are installed.
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
        if isinstance(error, ray.exceptions.RayError):  # usually about a token; Ray's own advice fits "auto" only
            reason = f"{reason_of(error)} (a cluster with tokens: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN)"
        if address == "local":
            raise FourshotError(
                f"Ray could not be started on this machine: {reason}. Its logs are in {LOGS} (or below "
                "RAY_TMPDIR). Or leave --ray out."
            ) from error
        raise InputError(
            f"There is no Ray cluster at {address!r}: {reason}. Give 'local' to start Ray on this machine, 'auto' on a "
            "machine of a cluster (`ray start`), or the address of its head, like 10.0.0.1:6379."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def check_cluster(address: str, gpus_per_engine: int = 1) -> None:
    """Raise InputError if the cluster does not exist, or has no machine for an engine, before any work starts.

    "" and "local" need no cluster, but this machine must have the GPUs.
    """
    if address:
        _check_installed()
    if address in ("", "local"):
        check_gpus(gpus_per_engine)
        return
    with cluster(address):
        most = int(max(machine.get("GPU", 0) for machine in machines()))
        if gpus_per_engine > max(1, most):  # a machine without GPUs has one engine for every few cores
            raise InputError(
                f"No machine of the Ray cluster has {gpus_per_engine} GPUs for an engine (--gpus-per-engine): at most "
                f"{most}. Give fewer, or add such a machine."
            )


def _check_installed() -> None:
    """Raise InputError if Ray cannot be imported, as on a platform for which it is not built."""
    try:
        import ray  # noqa: F401 - only whether it can be
    except ImportError as error:
        raise InputError(
            f"--ray needs Ray, which cannot be imported here: {error}. Install it (pip install ray), or leave --ray "
            "out."
        ) from error


def reason_of(error: Exception) -> str:
    """Return the line of a message of Ray that names the reason: the last one if it is about a process."""
    import ray

    lines = COLOURS.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    of_process = ray.exceptions.RayTaskError, ray.exceptions.RayActorError, ray.exceptions.RuntimeEnvSetupError
    return lines[-1 if isinstance(error, of_process) else 0].strip()


def machines() -> list[dict[str, float]]:
    """Return the resources of each live machine: "GPU", "CPU" and others."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def alive() -> set[str]:
    """Return the ids of all live machines, also of those without devices."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def nodes(together: int = 1) -> dict[str, int]:
    """Return the number of devices of each live machine that has any, by node id.

    A device is a GPU, or `CORES_PER_DEVICE` cores if the cluster has no GPU. ``together`` devices count as one.
    """
    import ray

    kind, per_device = ("GPU", together) if has_gpus() else ("CPU", CORES_PER_DEVICE * together)
    devices_of = {
        node["NodeID"]: int(node["Resources"].get(kind, 0) // per_device) for node in ray.nodes() if node["Alive"]
    }
    return {node: devices for node, devices in devices_of.items() if devices}


def on_node(node: str, *, soft: bool = False) -> Any:
    """Return the scheduling strategy that places a task or actor on ``node``; if ``soft``, elsewhere if it is gone."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=soft)


def has_gpus() -> bool:
    return any(machine.get("GPU", 0) for machine in machines())


def device_resources(count: int = 1) -> dict[str, float]:
    """Return the resources that a task or actor requests from Ray for ``count`` devices on one machine."""
    return {"num_gpus": count, "num_cpus": 0} if has_gpus() else {"num_cpus": CORES_PER_DEVICE * count}


def check_devices(count: int) -> None:
    """Raise FourshotError if no machine has ``count`` devices for one training."""
    gpus, cores = (int(max(machine.get(kind, 0) for machine in machines())) for kind in ("GPU", "CPU"))
    if gpus < count and (gpus or cores < CORES_PER_DEVICE * count):
        raise FourshotError(
            f"No machine of the Ray cluster has enough resources: at most {gpus} GPUs and {cores} cores, but a "
            f"training needs {count} GPU{'s' if count > 1 else ''}, or {CORES_PER_DEVICE * count} cores where there "
            "is no GPU."
        )


def _check_answering(address: str) -> None:
    """Raise OSError, ValueError or RayError within seconds if no cluster responds; Ray itself would retry for minutes.

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
    if bootstrap == "local" or scheme not in ("", "ray"):  # other schemes have clients of their own in Ray
        return
    host, _, port = place.rpartition(":")
    if not (host and port.isdigit() and int(port) < 1 << 16):
        raise ValueError(f"{origin}{bootstrap!r} is not HOST:PORT")
    try:
        _within(ANSWER_S, lambda: _call(host.strip("[]"), int(port), is_head=not scheme))
    except OSError as error:
        raise OSError(f"{origin}{error}") from error
    find_node_ids = getattr(services, "find_node_ids", None)  # later versions of Ray have it, and wait a minute for one
    if not scheme and find_node_ids and not find_node_ids():
        raise OSError(f"{origin}it responds, but this machine is not part of it (`ray start --address={bootstrap}`)")


def _within(seconds: float, call: Callable[[], None]) -> None:
    """Run ``call`` and raise what it raises, or TimeoutError if it takes longer than ``seconds``.

    It runs in a daemon thread, which is abandoned after the timeout. Neither name resolution nor Ray's first call
    accepts a timeout.
    """
    errors: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:  # every kind of error is raised again in the waiting thread
            errors.append(error)

    calling = threading.Thread(target=run, daemon=True)
    calling.start()
    calling.join(seconds)
    if calling.is_alive():
        raise TimeoutError(f"no response within {seconds:.0f} s")
    if errors:
        raise errors[0]


def _call(host: str, port: int, *, is_head: bool) -> None:
    """Raise OSError or RayError if no Ray listens at ``host`` and ``port``.

    Ray must send the greeting of a gRPC server. A head (``is_head``, not the server of a Ray client) must also report
    the cluster it belongs to.
    Source: RFC 9113, section 3.4 (the first frame of a server is SETTINGS, type 4).
    """
    try:
        with socket.create_connection((host, port), timeout=STEP_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):  # TLS: no greeting before a handshake
                connection.sendall(GREETING)
                frame = b""
                while len(frame) < 4 and (part := connection.recv(9)):
                    frame += part
                if frame[3:4] != b"\x04":
                    raise OSError("what listens there is not Ray")
    except TimeoutError:
        raise TimeoutError(f"no response within {STEP_S:.0f} s") from None
    if is_head:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        GcsClient(address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

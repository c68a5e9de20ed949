"""Several servers behind one address, on this machine or over Ray."""

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.engine.threads import available_cores
from fourshot.serving.app.keys import Keys, add_key
from fourshot.serving.fleet.router import Replica, Router
from fourshot.serving.fleet.supervisor import Say, Supervisor, listen, replica_settings
from fourshot.serving.settings import ServeSettings


async def serve_replicas(
    settings: ServeSettings,
    listening: socket.socket,
    number: int,
    ray: str,
    log: Path,
    say: Say,
    ready: asyncio.Event,
    stopping: asyncio.Event,
) -> None:
    """Start ``number`` replicas and route to them until ``stopping``; ``ready`` is set when the first is up."""
    with tempfile.TemporaryDirectory(prefix="fourshot-keys-") as folder:
        key = add_key(Path(folder) / "keys.toml", "router")
        where = over_ray if ray else here
        async with where(settings, number, ray, Path(folder) / "keys.toml", log, say) as replicas:
            router = Router(replicas, settings.limits, key)
            await router.open()
            watching = asyncio.create_task(router.watch())
            serving = asyncio.create_task(_serve(router, settings, listening, stopping))
            try:
                while not ready.is_set() and not serving.done():
                    await asyncio.sleep(0.1)
                    if any(replica.well for replica in replicas):
                        ready.set()
                await serving
            finally:
                watching.cancel()
                await router.close()


async def _serve(router: Router, settings: ServeSettings, listening: socket.socket, stopping: asyncio.Event) -> None:
    import uvicorn

    from fourshot.serving.app.guard import Guard
    from fourshot.serving.app.protocol import bounded_protocol

    limits = settings.limits
    app = Guard(router, limits, Keys(settings.keys) if settings.keys else None)
    config = uvicorn.Config(
        app,
        http=bounded_protocol(limits),
        limit_concurrency=limits.max_connections,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(settings.drain_s),
    )

    class Server(uvicorn.Server):
        """Leaves signals to whoever started it."""

        @contextlib.contextmanager
        def capture_signals(self):  # type: ignore[no-untyped-def]
            yield

    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    stopped.cancel()
    await serving


@asynccontextmanager
async def here(
    settings: ServeSettings, number: int, ray: str, keys: Path, log: Path, say: Say
) -> AsyncIterator[list[Replica]]:
    """Replicas on this machine, which share its cores; each of them is started again where it dies."""
    replicas, supervisors, running = [], [], []
    for index, environment in enumerate(environments(number, os.environ, gpus(os.environ))):
        listening = listen("127.0.0.1", 0)
        own = replica_settings(settings, "127.0.0.1", listening, keys)
        supervisor = Supervisor(
            own,
            listening,
            log.with_suffix(f".{index}.log"),
            lambda line, index=index: say(f"replica {index}: {line}"),  # type: ignore[misc]
            environment,
        )
        supervisors.append(supervisor)
        running.append(asyncio.create_task(supervisor.run()))
        replicas.append(Replica(index, f"http://127.0.0.1:{own.port}"))
    try:
        yield replicas
    finally:
        for supervisor in supervisors:
            supervisor.stop()
        await asyncio.gather(*running, return_exceptions=True)


def gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """GPUs that vLLM may use here, as CUDA_VISIBLE_DEVICES names them; none for the CPU build of vLLM."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return []
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(index) for index, _ in enumerate(devices.glob("nvidia[0-9]*"))]
    return [name.strip() for name in named.split(",") if name.strip()]


def environments(number: int, given: Mapping[str, str], gpus: Sequence[str]) -> list[dict[str, str]]:
    """Of ``number`` replicas on this machine: its cores and its GPUs divided among them.

    Raises InputError for more replicas than GPUs: vLLM takes nearly all memory of the GPUs that it sees.
    """
    if gpus and number > len(gpus):
        raise InputError(
            f"--replicas {number}: each needs a GPU, and there are {len(gpus)} here. Give at most {len(gpus)}, or use "
            "more machines (--ray)."
        )
    threads, each = str(max(1, available_cores() // number)), len(gpus) // number
    shares = [gpus[index * each : (index + 1) * each] for index in range(number)]
    return [
        {**given, "OMP_NUM_THREADS": threads, **({"CUDA_VISIBLE_DEVICES": ",".join(share)} if share else {})}
        for share in shares
    ]


@asynccontextmanager
async def over_ray(
    settings: ServeSettings, number: int, ray: str, keys: Path, log: Path, say: Say
) -> AsyncIterator[list[Replica]]:
    """Replicas as Ray actors, wherever the cluster has room."""
    from fourshot.serving.fleet.ray_replicas import RayReplicas

    started = await asyncio.to_thread(RayReplicas, settings, number, ray, keys.read_text(encoding="utf-8"))
    replicas = [Replica(index, address) for index, address in enumerate(await asyncio.to_thread(started.addresses))]

    async def follow() -> None:
        """An actor that Ray has started again has another address."""
        while True:
            await asyncio.sleep(2)
            for replica, address in zip(replicas, await asyncio.to_thread(started.addresses), strict=True):
                if address and address != replica.address:
                    say(f"replica {replica.number} is now at {address}")
                    replica.address = address

    following = asyncio.create_task(follow())
    try:
        yield replicas
    finally:
        following.cancel()
        await asyncio.to_thread(started.close)

"""Several servers behind one address, on this machine or over Ray."""

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.machine.gpus import gpus
from fourshot.engine.machine.temporary import temporary_folder
from fourshot.engine.machine.threads import available_cores
from fourshot.serving.app.keys import add_key
from fourshot.serving.app.logs import log_to
from fourshot.serving.fleet.router import Replica, Router
from fourshot.serving.fleet.supervisor import Say, Supervisor, listen, replica_settings
from fourshot.serving.settings import ServeSettings

if TYPE_CHECKING:
    from fourshot.serving.fleet.ray_replicas import RayReplicas

KEYS = "fourshot-keys-"  # prefix of the folder of the router's key
WAIT_S = 120.0  # for the first address over Ray: on a machine that is busy with other work, imports take a minute
FOLLOW_S = 2.0  # between two queries to Ray for the addresses of its actors
FOLLOW_WAIT_S = 5.0  # for these: an actor that is being started must not delay the new addresses of others


class Replicas:
    """``number`` servers, each restarted when it dies, behind one address. Used like a `Supervisor` of one server."""

    def __init__(
        self, settings: ServeSettings, listening: socket.socket, number: int, ray: str, log: Path, say: Say
    ) -> None:
        """``ray`` is where Ray runs, "" for this machine alone; ``log`` and ``say`` as for a `Supervisor`."""
        self._settings, self._listening, self._number, self._ray = settings, listening, number, ray
        self._log, self._say = log, say
        self._stopping = asyncio.Event()
        self._failed: list[Exception] = []  # one for each server of this machine that cannot be started
        self.ready = asyncio.Event()  # set when the first of them is up

    async def run(self) -> None:
        """Route requests to the servers until `stop`. Raises FourshotError, or OSError, if none can be started."""
        with temporary_folder(KEYS) as folder:
            keys = folder / "keys"  # a folder of its own: this process holds the lock of the temporary one
            keys.mkdir()
            await self._route(keys / "keys.toml")
        if len(self._failed) == self._number:
            raise self._failed[0]

    async def _route(self, keys: Path) -> None:
        key = add_key(keys, "router")
        async with self._over_ray(keys) if self._ray else self._on_this_machine(keys) as replicas:
            router = Router(replicas, self._settings.limits, key)
            await router.open()
            watching = asyncio.create_task(router.watch())
            serving = asyncio.create_task(self._serve(router))
            try:
                while not self.ready.is_set() and not serving.done():
                    await asyncio.sleep(0.1)
                    if any(replica.healthy for replica in replicas):
                        self.ready.set()
                await serving
            finally:
                watching.cancel()
                await router.close()

    def stop(self) -> None:
        """Have the servers answer what they have accepted, then end."""
        self._stopping.set()

    async def _serve(self, router: Router) -> None:
        import uvicorn

        from fourshot.serving.app.protocol import server_config

        class ReplicaServer(uvicorn.Server):
            """Leaves signals to the handlers of the process."""

            @contextlib.contextmanager
            def capture_signals(self):  # type: ignore[no-untyped-def]
                yield

        server = ReplicaServer(server_config(router, self._settings))
        log_to(sys.stderr, "uvicorn")
        serving = asyncio.create_task(server.serve(sockets=[self._listening]))
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            await router.drain.run(self._settings.drain_s)
        server.should_exit = True
        stopped.cancel()
        await serving

    @asynccontextmanager
    async def _on_this_machine(self, keys: Path) -> AsyncIterator[list[Replica]]:
        """Run the replicas on this machine, whose cores and GPUs they share; each is restarted when it dies."""
        replicas, supervisors, running = [], [], []
        for index, environment in enumerate(environments(self._number, os.environ, gpus(os.environ))):
            listening = listen("127.0.0.1", 0)
            own_settings = replica_settings(self._settings, "127.0.0.1", listening, keys)
            say = partial(_pass_on_line, self._say, index)
            supervisor = Supervisor(own_settings, listening, self._log.with_suffix(f".{index}.log"), say, environment)
            supervisors.append(supervisor)
            running.append(asyncio.create_task(self._keep_alive(supervisor, say)))
            replicas.append(Replica(index, f"http://127.0.0.1:{own_settings.port}"))
        try:
            yield replicas
        finally:
            for supervisor in supervisors:
                supervisor.stop()
            await asyncio.gather(*running)

    async def _keep_alive(self, supervisor: Supervisor, say: Say) -> None:
        """Run one replica. If it cannot be started, the others do the work; if none can, everything stops."""
        try:
            await supervisor.run()
        except (FourshotError, OSError) as error:
            say(str(error))
            self._failed.append(error)
            if len(self._failed) == self._number:
                self.stop()

    @asynccontextmanager
    async def _over_ray(self, keys: Path) -> AsyncIterator[list[Replica]]:
        """Run the replicas as Ray actors, wherever the cluster has room."""
        from fourshot.serving.fleet.ray_replicas import RayReplicas

        text = keys.read_text(encoding="utf-8")
        started = await asyncio.to_thread(RayReplicas, self._settings, self._number, self._ray, text, self._say)
        replicas: list[Replica] = []

        async def follow() -> None:
            """Update the addresses: an actor that Ray has restarted has another one."""
            while True:
                await asyncio.sleep(FOLLOW_S)
                addresses = await asyncio.to_thread(started.addresses, FOLLOW_WAIT_S)
                for replica, address in zip(replicas, addresses, strict=True):
                    if address and address != replica.address:
                        self._say(f"replica {replica.number} is now at {address}")
                        replica.address = address

        try:
            addresses = await self._first_addresses(started)
            replicas += [Replica(index, address) for index, address in enumerate(addresses)]
            following = asyncio.create_task(follow())
            try:
                yield replicas
            finally:
                following.cancel()
        finally:
            await asyncio.to_thread(started.close)

    async def _first_addresses(self, started: "RayReplicas") -> list[str]:
        """Wait until a replica is up, or `stop` is called. Others may come later: the cluster may have no room now.

        Raises FourshotError if none is up after `WAIT_S`.
        """
        deadline_s = time.monotonic() + WAIT_S
        while not any(addresses := await asyncio.to_thread(started.addresses, FOLLOW_S)):
            if self._stopping.is_set():
                break
            if time.monotonic() > deadline_s:
                raise FourshotError(
                    f"the cluster had no room for a replica within {WAIT_S:.0f} s. `ray status` shows its resources."
                )
        return addresses


def _pass_on_line(say: Say, replica: int, line: str) -> None:
    """Pass on a line of a replica's output, with its number. A line of its log keeps its level and format."""
    if line.startswith("{"):
        with contextlib.suppress(msgspec.DecodeError):
            say(msgspec.json.encode({**msgspec.json.decode(line, type=dict[str, Any]), "replica": replica}).decode())
            return
    say(f"replica {replica}: {line}")


def environments(number: int, inherited: Mapping[str, str], gpus: Sequence[str]) -> list[dict[str, str]]:
    """Return the environments of ``number`` replicas on this machine: its cores and its GPUs divided among them.

    Raises InputError for more replicas than GPUs: vLLM uses nearly all memory of the GPUs that it sees.
    """
    if gpus and number > len(gpus):
        raise InputError(
            f"--replicas {number}: each needs a GPU, and there are {len(gpus)} here. Give at most {len(gpus)}, or use "
            "more machines (--ray)."
        )
    threads, gpus_each = str(max(1, available_cores() // number)), len(gpus) // number
    shares = [gpus[index * gpus_each : (index + 1) * gpus_each] for index in range(number)]
    return [
        {**inherited, "OMP_NUM_THREADS": threads, **({"CUDA_VISIBLE_DEVICES": ",".join(share)} if share else {})}
        for share in shares
    ]

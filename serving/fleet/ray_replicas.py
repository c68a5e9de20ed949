"""Replicas as Ray actors. The only module of serving that imports ray."""

import asyncio
import contextlib
import os
import shutil
import threading
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec

from fourshot.engine.errors import FourshotError
from fourshot.engine.machine.temporary import process_folder
from fourshot.serving.fleet.supervisor import Say, Supervisor, listen, replica_settings
from fourshot.serving.settings import ServeSettings
from fourshot.training.jobs.cluster import NOTICE_S, cluster, has_gpus, machines, nodes, reason_of
from fourshot.training.jobs.machines import MachineSetup, check_machines, machine_name, machine_setup, prepare_machine

REPLICA = "fourshot-replica-"  # prefix of the replicas' folders


class RayReplicas:
    """``number`` servers on a cluster, each with one GPU if the cluster has any, else a share of a machine's cores."""

    def __init__(self, settings: ServeSettings, number: int, address: str, keys: str, say: Say) -> None:
        """``address`` is "local", "auto" or a cluster's; ``keys`` is the text of the replicas' key file.

        A machine that lacks the base model gets a copy, also when Ray moves a replica later. Raises InputError, with
        every machine that cannot take part. ``say`` gets messages about replicas that could not be started.
        """
        import ray

        adapters = os.path.normpath(Path(settings.adapters).expanduser().absolute())  # workers run elsewhere
        base = None if settings.students_only else settings.find_base()
        settings = msgspec.structs.replace(settings, adapters=adapters, found_base=base)
        self._connection = contextlib.ExitStack()
        self._connection.enter_context(cluster(address))
        try:
            setup = self._connection.enter_context(machine_setup(base.path if base else "", folders=[adapters]))
            check_machines(setup, nodes())
        except BaseException:
            self._connection.close()
            raise
        gpus = has_gpus()
        share = cores_each([int(machine.get("CPU", 0)) for machine in machines()], number)
        actor = ray.remote(_Actor).options(
            num_gpus=1 if gpus else 0, num_cpus=1 if gpus else share, max_restarts=-1, max_task_retries=-1
        )
        self._ray, self._tell = ray, cache(say)  # reports the same failure once, however often it occurs
        self._start = partial(actor.remote, settings, keys, 0 if gpus else share, setup)
        self._actors = [self._start() for _ in range(number)]
        self._addresses = [""] * number  # the last that each had; "": it was never up
        self._calls: list[Any] = [None] * number  # for their addresses, that were not answered yet
        self._called_s = [0.0] * number  # when

    def addresses(self, wait_s: float) -> list[str]:
        """Return the address of every replica, "" if it does not respond within ``wait_s`` seconds.

        A machine that is cut off delays no other. A replica that does not respond for `NOTICE_S` is reported.
        """
        for number, actor in enumerate(self._actors):
            if self._calls[number] is None:  # one that is not up gets no further call
                self._calls[number], self._called_s[number] = actor.address.remote(), time.monotonic()
        ended, _ = self._ray.wait(self._calls, num_returns=len(self._calls), timeout=wait_s)
        return [self._answer(number, call in ended) for number, call in enumerate(self._calls)]

    def _answer(self, number: int, has_ended: bool) -> str:
        """Return the address of a replica if its call ``has_ended``, "" otherwise."""
        if not has_ended:
            if time.monotonic() - self._called_s[number] > NOTICE_S:
                self._tell(
                    f"replica {number} is not up: the cluster has no room for it, or its machine does not respond "
                    "(`ray status`)"
                )
            return ""
        call, self._calls[number] = self._calls[number], None
        try:
            self._addresses[number] = str(self._ray.get(call))
            return self._addresses[number]
        except self._ray.exceptions.ActorDiedError as error:  # Ray gives up an actor whose start raised
            self._tell(f"replica {number} could not be started, and is tried again: {reason_of(error)}")
            self._actors[number] = self._start()
        except self._ray.exceptions.RayError:
            pass
        return ""

    def close(self) -> None:
        """Stop all replicas, each after it has answered what it accepted."""
        stops = [actor.stop.remote() for actor, address in zip(self._actors, self._addresses, strict=True) if address]
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.wait(stops, num_returns=len(stops), timeout=30) if stops else None
        for actor in self._actors:
            self._ray.kill(actor)
        self._connection.close()


def cores_each(cores: Sequence[int], number: int) -> int:
    """Return the most cores that each of ``number`` replicas can have on machines with these ``cores``; at least 1."""
    shares = (
        share for share in range(max(cores, default=1), 1, -1) if sum(count // share for count in cores) >= number
    )
    return next(shares, 1)


class _Actor:
    """Runs a `Supervisor` in a thread of its own."""

    def __init__(self, settings: ServeSettings, keys: str, threads: int, setup: MachineSetup) -> None:
        import ray

        try:
            checkpoint = prepare_machine(setup)
        except (FourshotError, OSError) as error:
            raise FourshotError(f"{machine_name()}: {error}") from error
        if settings.found_base:
            base = msgspec.structs.replace(settings.found_base, path=checkpoint)
            settings = msgspec.structs.replace(settings, found_base=base)
        self._folder = folder = process_folder(REPLICA)
        file = folder / "keys.toml"
        file.touch(mode=0o600)
        file.write_text(keys, encoding="utf-8")
        host = ray.util.get_node_ip_address()
        listening = listen(host, 0)
        own_settings = replica_settings(settings, host, listening, file)
        environment: dict[str, str] = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        environment.pop("GOMP_SPINCOUNT", None)  # the cluster's is for trainings; an engine's threads wait longer
        self._address = f"http://{own_settings.authority}"
        running = threading.Event()

        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            self._supervisor = Supervisor(own_settings, listening, folder / "serve.log", print, environment)
            running.set()
            await self._supervisor.run()

        def serve() -> None:
            try:
                asyncio.run(run())
            except Exception as error:  # of any kind: else this actor would live on without a server
                print(error if isinstance(error, FourshotError) else repr(error), flush=True)
                os._exit(1)  # Ray starts another

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        running.wait(30)

    def address(self) -> str:
        return self._address

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._supervisor.stop)
        self._thread.join(25)
        shutil.rmtree(self._folder, ignore_errors=True)

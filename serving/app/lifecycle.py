"""What goes on in a server beside its requests: the adapters' folder is followed, and it ends when it is told to."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from fourshot.serving.app.service import Service
from fourshot.serving.settings import ServeSettings

logger = logging.getLogger("fourshot.serving")
LOADING_S = 1.0  # of new adapters between two looks at the folder: a pin or a removal waits no longer, but for one


class AtStart:
    """What the process that runs a server knows beside its settings."""

    restarts = 0  # how often the server was started before
    supervised = False  # standard input says when to stop, by its end at the latest
    staging: Path | None = None  # where copies of adapters go
    ready: Callable[[], None] = staticmethod(lambda: None)  # called when adapters are loaded and requests may come


at_start = AtStart()


async def nothing() -> None:
    """Stands for what need not be done."""


async def live(
    service: Service,
    settings: ServeSettings,
    *,
    count: Callable[[], Awaitable[None]] = nothing,
    is_down: Callable[[], bool] = lambda: False,
    other_tasks: "tuple[asyncio.Task[None], ...]" = (),
) -> "list[asyncio.Task[None]]":
    """Load what is in the folder, then follow it until the end. Returns the tasks that do.

    ``count`` is called after each look; what fails while ``is_down()`` is no news. ``other_tasks`` end with
    the folder's.
    """
    service.adapters.on_change = service.metrics.change
    service.metrics.restarts.set(at_start.restarts)
    await service.adapters.refresh()
    watching = asyncio.create_task(_watch(service, settings.poll_s, count, is_down))
    tasks = [*other_tasks, watching]
    at_start.ready()
    return [*tasks, asyncio.create_task(_obey(service, settings.drain_s, tasks))]


async def _watch(
    service: Service, poll_s: float, count: Callable[[], Awaitable[None]], is_down: Callable[[], bool]
) -> None:
    """Look at the folder every ``poll_s`` seconds, as long as the server runs; at once where more is to be loaded."""
    adapters, metrics, is_done = service.adapters, service.metrics, True
    while True:
        metrics.tasks.set(len(adapters.current))
        metrics.refused.set(len(adapters.refused()))
        metrics.damaged.set(len(adapters.damaged))
        metrics.waiting.set(adapters.num_waiting)
        metrics.rate.set(adapters.tokens_per_s)
        metrics.forget()
        await asyncio.sleep(poll_s if is_done else 0)
        is_done = True
        try:
            is_done = await adapters.refresh(LOADING_S)
            await count()
        except asyncio.CancelledError:
            raise
        except Exception:  # whatever lies in the folder, the service goes on with what it has
            if not is_down():
                logger.exception("the adapters' folder could not be followed; trying again")


async def _obey(service: Service, drain_s: float, tasks: "list[asyncio.Task[None]]") -> None:
    """Wait for the supervisor to ask for the end, answer what was accepted, then have vLLM end."""
    if not at_start.supervised:
        return
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.readline()
    logger.info("stopping")
    for task in tasks:
        task.cancel()
    await service.drain(drain_s)
    os.kill(os.getpid(), signal.SIGTERM)

"""Background work of a server: it follows the adapters' folder, and stops when the supervisor asks it to."""

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
LOADING_S = 1.0  # of loading between two scans of the folder: pins and removals wait so long, or for one adapter


class ProcessState:
    """State of the process of a server that is not in its settings."""

    restarts = 0  # how often the server was started before
    supervised = False  # a line on standard input, or its end, asks to stop
    staging: Path | None = None  # folder for copies of adapters
    ready: Callable[[], None] = staticmethod(lambda: None)  # called when adapters are loaded and requests accepted


process_state = ProcessState()


async def do_nothing() -> None:
    """Do nothing: the default of a callback."""


async def live(
    service: Service,
    settings: ServeSettings,
    *,
    count: Callable[[], Awaitable[None]] = do_nothing,
    is_down: Callable[[], bool] = lambda: False,
    other_tasks: "tuple[asyncio.Task[None], ...]" = (),
) -> "list[asyncio.Task[None]]":
    """Load what is in the folder, then follow it in the background. Returns all background tasks.

    ``count`` is called after each scan; failures while ``is_down()`` are not logged. A stop cancels ``other_tasks``
    together with the scans.
    """
    service.adapters.on_change = service.metrics.change
    service.metrics.restarts.set(process_state.restarts)
    await service.adapters.refresh()
    watching = asyncio.create_task(_watch(service, settings.poll_s, count, is_down))
    tasks = [*other_tasks, watching]
    process_state.ready()
    return [*tasks, asyncio.create_task(_stop_on_request(service, settings.drain_s, tasks))]


async def _watch(
    service: Service, poll_s: float, count: Callable[[], Awaitable[None]], is_down: Callable[[], bool]
) -> None:
    """Scan the folder every ``poll_s`` seconds while the server runs, or at once if more is to be loaded."""
    adapters, metrics, is_done = service.adapters, service.metrics, True
    while True:
        metrics.tasks.set(len(adapters.current))
        metrics.refused.set(len(adapters.refused()))
        metrics.damaged.set(len(adapters.damaged))
        metrics.waiting.set(adapters.num_waiting)
        metrics.rate.set(adapters.tokens_per_s)
        await asyncio.to_thread(metrics.forget)  # it takes as long as a page of metrics
        await asyncio.sleep(poll_s if is_done else 0)
        is_done = True
        try:
            is_done = await adapters.refresh(LOADING_S)
            await count()
        except asyncio.CancelledError:
            raise
        except Exception:  # whatever is in the folder, the service continues with what it has
            if not is_down():
                logger.exception("the adapters' folder could not be scanned; trying again")


async def _stop_on_request(service: Service, drain_s: float, tasks: "list[asyncio.Task[None]]") -> None:
    """Wait for the supervisor's request to stop, answer what was accepted, then end the server with SIGTERM.

    Returns at once if there is no supervisor.
    """
    if not process_state.supervised:
        return
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.readline()
    logger.info("stopping")
    for task in tasks:
        task.cancel()
    await service.drain(drain_s)
    os.kill(os.getpid(), signal.SIGTERM)

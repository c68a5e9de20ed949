"""A vLLM endpoint plugin: our routes beside the OpenAI ones, on the same engine.

vLLM's server loads it where ``VLLM_PLUGINS`` names ``fourshot`` and `serving.settings.ENVIRONMENT` says what to serve;
`fourshot serve` sets both.
"""

import asyncio
import logging
import os
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from fourshot.engine.core import EngineSettings
from fourshot.engine.models import checkpoint_shapes, resolve_model
from fourshot.engine.tokens import load_tokenizer
from fourshot.engine.vllm_seams.lora_loads import WORKER_METHOD
from fourshot.serving.app.adapter_sync import AdapterSync
from fourshot.serving.app.dispatcher import Dispatcher
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.registry import Registry
from fourshot.serving.app.routes import add_routes
from fourshot.serving.app.scorer import Scorer
from fourshot.serving.app.service import Service
from fourshot.serving.settings import ENVIRONMENT, from_json

logger = logging.getLogger("fourshot.serving")
LOOK_AT_ENGINE_S = 0.2
LAST_ANSWERS_S = 1.0
ENGINE_DIED = 70  # exit code: EX_SOFTWARE of sysexits.h


class AtStart:
    """What the process that runs vLLM's server knows and vLLM does not hand on."""

    restarts = 0  # how often the server was started before
    supervised = False  # standard input says when to stop, by its end at the latest
    staging: Path | None = None  # where copies of adapters go
    ready: Callable[[], None] = staticmethod(lambda: None)  # called when adapters are loaded and requests may come


at_start = AtStart()


class FourshotPlugin:
    """Implements vLLM's ``EndpointPlugin``."""

    name = "fourshot"
    required_tasks: tuple[str, ...] | None = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes. The first request waits for `init_state`."""
        add_routes(app, from_json(os.environ[ENVIRONMENT]).limits)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Load the adapters that are there, then watch their folder."""
        settings = from_json(os.environ[ENVIRONMENT])
        limits = settings.limits
        base = resolve_model(settings.base)
        tokenizer = load_tokenizer(base.path)
        lora, scheduler = engine_client.vllm_config.lora_config, engine_client.vllm_config.scheduler_config
        max_model_len = engine_client.model_config.max_model_len
        metrics = Metrics()
        dispatcher = Dispatcher(
            slots=lora.max_loras,
            window_tokens=2 * scheduler.max_num_batched_tokens,
            max_wait_s=limits.max_wait_ms / 1000,
            max_queue_s=limits.max_queue_s,
        )
        scorer = Scorer(engine_client, dispatcher)
        adapters = AdapterSync(
            Registry(settings.adapters, base),
            engine=engine_client,
            models=state.openai_serving_models,
            tokenizer=tokenizer,
            scorer=scorer,
            staging=at_start.staging or Path(tempfile.mkdtemp(prefix="fourshot-serving-")),
            base_shapes=checkpoint_shapes(Path(base.path)),
            largest_rank=lora.max_lora_rank,
            settings=EngineSettings(model=base.path, max_model_len=max_model_len),
            hot=settings.hot,
        )
        state.fourshot = Service(
            base_name=base.name,
            adapters=adapters,
            scorer=scorer,
            dispatcher=dispatcher,
            tokenizer=tokenizer,
            limits=limits,
            metrics=metrics,
            max_model_len=max_model_len,
        )
        adapters.on_change = _counting(metrics)
        metrics.restarts.set(at_start.restarts)
        await adapters.refresh()
        beside = [
            asyncio.create_task(_mind(engine_client)),
            asyncio.create_task(_watch(state.fourshot, dispatcher, engine_client, settings.poll_s)),
        ]
        state.fourshot_beside = [*beside, asyncio.create_task(_obey(state.fourshot, settings.drain_s, beside))]
        at_start.ready()


def plugin() -> FourshotPlugin:
    """The entry point."""
    return FourshotPlugin()


async def _watch(service: Service, dispatcher: Dispatcher, engine: Any, poll_s: float) -> None:
    """Look at the folder every ``poll_s`` seconds, as long as the server runs."""
    adapters, metrics = service.adapters, service.metrics
    while True:
        metrics.tasks.set(len(adapters.current))
        metrics.refused.set(len(adapters.refused()))
        metrics.damaged.set(len(adapters.damaged))
        metrics.waiting.set(dispatcher.num_waiting)
        metrics.rate.set(dispatcher.tokens_per_s)
        await asyncio.sleep(poll_s)
        try:
            await adapters.refresh()
            await _count_loads(engine, metrics)
        except asyncio.CancelledError:
            raise
        except Exception:  # whatever lies in the folder, the service goes on with what it has
            if not engine.errored:
                logger.exception("the adapters' folder could not be followed; trying again")


async def _obey(service: Service, drain_s: float, beside: "list[asyncio.Task[None]]") -> None:
    """Wait for the supervisor to ask for the end, answer what was accepted, then have vLLM end."""
    if not at_start.supervised:
        return
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.readline()
    logger.info("stopping")
    for task in beside:
        task.cancel()
    await service.drain(drain_s)
    os.kill(os.getpid(), signal.SIGTERM)


async def _mind(engine: Any) -> None:
    """Wait until the engine has died, let those who wait be answered, and end; the supervisor starts another server.

    A task of its own: whoever waits for a dead engine's answer waits for ever.
    """
    while not engine.errored:
        await asyncio.sleep(LOOK_AT_ENGINE_S)
    logger.error("the engine has died")
    await asyncio.sleep(LAST_ANSWERS_S)
    os._exit(ENGINE_DIED)


def _counting(metrics: Metrics) -> Callable[[str, str], None]:
    def changed(task: str, name: str) -> None:
        metrics.changes.labels(task).inc()
        if not name:
            metrics.forget(task)

    return changed


async def _count_loads(engine: Any, metrics: Metrics) -> None:
    for counts in await engine.collective_rpc(WORKER_METHOD):
        for kind, (uses, seconds) in counts.items():
            metrics.loads.labels(kind).set(uses)
            metrics.load_seconds.labels(kind).set(seconds)

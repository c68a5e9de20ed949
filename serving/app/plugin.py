"""A vLLM endpoint plugin: our routes beside the OpenAI ones, on the same engine.

vLLM's server loads it if ``VLLM_PLUGINS`` names ``fourshot``, and `serving.settings.ENVIRONMENT` holds its settings.
`fourshot serve` sets both variables.
"""

import asyncio
import logging
import os
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from fourshot.engine.checkpoints.models import checkpoint_shapes
from fourshot.engine.core import EngineSettings
from fourshot.engine.machine.temporary import process_folder
from fourshot.engine.tokens import load_tokenizer
from fourshot.engine.vllm_seams.api_server import models_of
from fourshot.engine.vllm_seams.client import limits_of
from fourshot.engine.vllm_seams.lora_loads import WORKER_METHOD
from fourshot.serving.app.lifecycle import live, process_state
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.routes import add_routes
from fourshot.serving.app.service import Service
from fourshot.serving.models.adapter_sync import AdapterSync
from fourshot.serving.models.base_model import BaseModel
from fourshot.serving.models.registry import Registry
from fourshot.serving.models.scorer import Scorer
from fourshot.serving.models.students import open_students, queue_of
from fourshot.serving.settings import ENVIRONMENT, STAGING, from_json

logger = logging.getLogger("fourshot.serving")
ENGINE_CHECK_INTERVAL_S = 0.2
LAST_ANSWERS_S = 1.0
ENGINE_DIED = 70  # exit code: EX_SOFTWARE of sysexits.h


class FourshotPlugin:
    """Implements vLLM's ``EndpointPlugin``."""

    name = "fourshot"
    required_tasks: tuple[str, ...] | None = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes. The first request waits for `init_state`."""
        settings = from_json(os.environ[ENVIRONMENT])
        add_routes(app, settings.limits, settings.asks_keys)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Load the adapters in the folder, then follow its changes in the background."""
        settings = from_json(os.environ[ENVIRONMENT])
        limits, of_engine = settings.limits, limits_of(engine_client)
        base = settings.find_base()
        tokenizer = load_tokenizer(base.path)
        dispatcher = queue_of(limits, of_engine.num_loras, 2 * of_engine.step_tokens)
        staging = process_state.staging or process_folder(STAGING)
        model = BaseModel(
            engine=engine_client,
            models=models_of(state),
            tokenizer=tokenizer,
            scorer=Scorer(engine_client, dispatcher),
            dispatcher=dispatcher,
            staging=staging,
            base_shapes=checkpoint_shapes(Path(base.path)),
            largest_rank=of_engine.lora_rank,
            settings=EngineSettings(model=base.path, max_model_len=of_engine.prompt_tokens),
            hot=settings.hot,
        )
        students, writers = open_students(staging, limits)
        state.fourshot = Service(
            base_name=base.name,
            adapters=AdapterSync(Registry(settings.adapters, lambda: base), students, model, writers),
            limits=limits,
            metrics=Metrics(),
        )
        state.fourshot_beside = await live(
            state.fourshot,
            settings,
            count=partial(_count_loads, engine_client, state.fourshot.metrics),
            is_down=lambda: bool(engine_client.errored),
            other_tasks=(asyncio.create_task(_exit_when_engine_dies(engine_client)),),
        )


def plugin() -> FourshotPlugin:
    """Return the plugin: the entry point for vLLM."""
    return FourshotPlugin()


async def _exit_when_engine_dies(engine: Any) -> None:
    """Wait until the engine has died, let pending requests get their 503, and exit; the supervisor restarts the server.

    This is a task of its own, because a call to a dead engine never returns.
    """
    while not engine.errored:
        await asyncio.sleep(ENGINE_CHECK_INTERVAL_S)
    logger.error("the engine has died")
    await asyncio.sleep(LAST_ANSWERS_S)
    os._exit(ENGINE_DIED)


async def _count_loads(engine: Any, metrics: Metrics) -> None:
    for counts in await engine.collective_rpc(WORKER_METHOD):
        for kind, (uses, seconds) in counts.items():
            metrics.loads.labels(kind).set(uses)
            metrics.load_seconds.labels(kind).set(seconds)

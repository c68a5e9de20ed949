"""Server for students only: our routes, guard and limits on uvicorn, without vLLM and without a language model."""

import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from fourshot.serving.api import HEALTH_PATHS
from fourshot.serving.app.lifecycle import live, process_state
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.protocol import server_config
from fourshot.serving.app.routes import add_routes
from fourshot.serving.app.service import Service
from fourshot.serving.models.adapter_sync import AdapterSync
from fourshot.serving.models.registry import Registry, no_base
from fourshot.serving.models.students import open_students
from fourshot.serving.settings import ServeSettings


def application(settings: ServeSettings, staging: Path) -> FastAPI:
    """Return an app with our routes. It loads the students before it accepts a request."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        students, writers = open_students(staging, settings.limits)
        adapters = AdapterSync(Registry(settings.adapters, no_base), students, writers=writers)
        app.state.fourshot = Service(base_name="", adapters=adapters, limits=settings.limits, metrics=Metrics())
        tasks = await live(app.state.fourshot, settings)
        yield
        for task in tasks:
            task.cancel()

    app = FastAPI(title="fourshot", lifespan=lifespan)
    add_routes(app, settings.limits, settings.asks_keys)
    for path in HEALTH_PATHS:
        app.get(path, include_in_schema=False)(_health)
    app.get("/metrics", include_in_schema=False)(_metrics)
    return app


async def serve(settings: ServeSettings, listening: socket.socket) -> None:
    """Serve until a signal asks to stop."""
    assert process_state.staging
    config = server_config(application(settings, process_state.staging), settings)
    await uvicorn.Server(config).serve(sockets=[listening])


async def _health() -> Response:
    return Response()


def _metrics() -> Response:  # in a thread: a page of a thousand tasks takes a second
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

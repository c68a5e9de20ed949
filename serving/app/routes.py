"""Our routes beside vLLM's own: HTTP for `serving.app.service`, and the page for trying it out."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from importlib import resources
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from fourshot.serving.answers import JSON, RefusalError, send_refusal, stopping
from fourshot.serving.api import HEALTH_PATHS
from fourshot.serving.app.conventions import Conventions
from fourshot.serving.app.docs_page import add_docs
from fourshot.serving.app.guard import ACCESS, CLIENT_NAME
from fourshot.serving.app.keys import Key
from fourshot.serving.app.openapi import CLASSIFY, GENERATE, TASKS, add_schemas
from fourshot.serving.app.requests import deadline_s
from fourshot.serving.app.service import CLIENT_GONE, Caller, Service
from fourshot.serving.settings import Limits

logger = logging.getLogger("fourshot.serving")
PAGE = "page.html"
# The page is one file: nothing is loaded from elsewhere, and no other site may frame it.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

encode = msgspec.json.Encoder().encode


def add_routes(app: FastAPI, limits: Limits, has_keys: bool = False) -> None:
    """Add our routes and their OpenAPI description to ``app``. They use the `Service` in the app's state."""
    app.get("/", include_in_schema=False)(_page)
    app.post("/v1/classify/{task:path}", **CLASSIFY)(_classify)  # any path: the error then names the unknown task
    app.post("/v1/generate/{task:path}", **GENERATE)(_generate)
    app.get("/v1/tasks", **TASKS)(_tasks)
    app.exception_handler(RefusalError)(_refuse)
    app.add_middleware(Readiness)
    app.add_middleware(Conventions)
    app.router.redirect_slashes = False
    add_schemas(app, limits, has_keys)
    add_docs(app)


class Readiness:
    """ASGI middleware: health checks fail while the service is stopping, so that no more requests are sent to it."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] in HEALTH_PATHS:
            service: Service | None = getattr(scope["app"].state, "fourshot", None)
            if service is not None and service.stopping:
                await send_refusal(send, stopping())
                return
        await self._app(scope, receive, send)


async def _classify(task: str, request: Request) -> Response:
    return await _answer(task, request, _service(request).classify)


async def _generate(task: str, request: Request) -> Response:
    return await _answer(task, request, _service(request).generate)


async def _answer(
    task: str, request: Request, ask: Callable[[str, bytes, Caller], Coroutine[Any, Any, Any]]
) -> Response:
    key: Key | None = request.scope.get(ACCESS)
    if key is not None:
        key.require(task)
    caller = Caller(
        name=request.scope.get(CLIENT_NAME, ""),
        deadline_s=deadline_s(request.scope["headers"]),
        tasks=key.tasks if key is not None else (),
    )
    body = await request.body()
    answering = asyncio.create_task(ask(task, body, caller))
    leaving = asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            return Response(status_code=CLIENT_GONE)  # nobody reads it
        return Response(encode(answering.result()), media_type=JSON)
    except RefusalError:
        raise
    except Exception:  # the framework would take some for faults of the client
        logger.exception("a request has failed")
        raise RefusalError(500, "fault", "The service has failed; its log says how.") from None
    finally:
        for waiting in (answering, leaving):
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await waiting


def _service(request: Request) -> Service:
    """Return the service. Raises `RefusalError` while it is starting."""
    service: Service | None = getattr(request.app.state, "fourshot", None)
    if service is None:
        raise RefusalError(503, "starting", "The service is starting.", 5.0)
    return service


async def _until_gone(request: Request) -> None:
    """Return when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _tasks(request: Request) -> Response:
    service = _service(request)
    key: Key | None = request.scope.get(ACCESS)
    flag = request.query_params.get("all", "0")
    if flag not in ("0", "1"):
        raise RefusalError(400, "bad_request", f"all={flag!r}: 1 also lists what is not served; 0 does not.")
    listed = service.tasks(flag == "1")
    return Response(encode(key.visible(listed) if key else listed), media_type=JSON)


async def _refuse(request: Request, refusal: RefusalError) -> Response:
    return Response(refusal.body, refusal.code, refusal.headers, media_type=JSON)


async def _page() -> HTMLResponse:
    page = resources.files("fourshot.serving.app").joinpath(PAGE).read_text(encoding="utf-8")
    return HTMLResponse(page, headers=PAGE_HEADERS)

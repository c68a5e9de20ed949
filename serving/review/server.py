"""A run's report and texts as a page on this machine: a person keeps, drops and relabels texts in the run's tables.

The address contains a secret, so that neither another user nor another site's page can read or change anything.
"""

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from fourshot.engine.errors import FourshotError, InputError
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.serving.review.desk import ChangedElsewhereError, Decision, ReviewDesk

HOST = "127.0.0.1"
MOST_PORT = 65535
MOST_BYTES = 1 << 16  # of a request
LOST = (
    "There is nothing here. The address has a new secret each time: open the one that `fourshot report` printed last."
)
# Each page is one file: nothing is loaded from elsewhere, and no other site may frame it.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; frame-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# The report needs no scripts, and may have been made by somebody else.
REPORT_HEADERS = HEADERS | {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; base-uri 'none'; "
        "form-action 'none'"
    )
}


def review_app(desk: ReviewDesk, token: str) -> Starlette:
    """Return the app. It serves only paths below /``token``/, and only under this machine's own names."""
    routes = _Routes(desk)
    below = [
        Route("/", routes.page),
        Route("/report", routes.report),
        Route("/rows", routes.next_rows),
        Route("/rows/{table}", routes.rows),
        Route("/rows/{table}/{text_id}", routes.decide, methods=["PUT"]),
    ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=below)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
        exception_handlers={
            ChangedElsewhereError: _show_present,
            FourshotError: _refuse,
            msgspec.DecodeError: _refuse,
            OSError: _refuse,
            404: _lost,
        },
    )


class _Routes:
    """Request handlers for one desk."""

    def __init__(self, desk: ReviewDesk) -> None:
        self._desk = desk

    async def page(self, request: Request) -> Response:
        return HTMLResponse(resources.files(__package__).joinpath("page.html").read_text("utf-8"), headers=HEADERS)

    async def report(self, request: Request) -> Response:
        if not self._desk.folder.has("report.html"):
            return _json({"error": "There is no report yet: a run writes it at its end."}, 404)
        return HTMLResponse((self._desk.folder.path / "report.html").read_bytes(), headers=REPORT_HEADERS)

    async def next_rows(self, request: Request) -> Response:
        return _json(self._desk.view(self._desk.next_table()))

    async def rows(self, request: Request) -> Response:
        return _json(self._desk.view(request.path_params["table"]))

    async def decide(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return _json({"error": f"The body has more than {MOST_BYTES:,} bytes."}, 413)
        table, text_id = (request.path_params[name] for name in ("table", "text_id"))
        return _json(self._desk.table(table).decide(text_id, msgspec.json.decode(body, type=Decision)))


def _json(value: Any, code: int = 200) -> Response:
    return Response(msgspec.json.encode(value), code, HEADERS, "application/json")


async def _refuse(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 400)


async def _show_present(request: Request, error: Exception) -> Response:
    assert isinstance(error, ChangedElsewhereError)
    return _json({"error": str(error), "present": error.present}, 409)


async def _lost(request: Request, error: Exception) -> Response:
    return PlainTextResponse(LOST, 404, HEADERS)


def serve_review(folder: RunFolder, port: int, opened: Callable[[str], None]) -> None:
    """Serve the page on this machine until Ctrl-C. ``opened`` gets the address; ``port`` 0 takes a free one.

    Raises InputError for a port that is taken or invalid, and for a table with faults.
    """
    if not 0 <= port <= MOST_PORT:
        raise InputError(
            f"--port {port} is not a port: give a number from 0, which takes a free one, to {MOST_PORT:,}."
        )
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used: {str(error).rstrip('.')}. Give another --port, or leave it out."
            ) from error
        desk, token = ReviewDesk(folder), secrets.token_urlsafe(16)  # writes a table, so not before there is a port
        bound.listen()  # a browser that opens the address at once waits until the server runs
        opened(f"http://{HOST}:{bound.getsockname()[1]}/{token}/")
        server = uvicorn.Server(uvicorn.Config(review_app(desk, token), log_level="warning", access_log=False))
        with suppress(KeyboardInterrupt):
            server.run(sockets=[bound])

"""A run's report and texts as a page on this machine: a person keeps, drops and relabels, and the table is rewritten.

The address carries a secret, so that neither another user nor another site's page can read or change anything.
"""

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec

from fourshot.engine.errors import FourshotError, InputError
from fourshot.pipeline.cells.review import ASK, REVIEW, answers_in, decisions, has_table, open_review, written_rows
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.faults import MOST_NAMED, shorten
from fourshot.pipeline.rows.review_table import ReviewAnswer, label_named, own_columns, write_review

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
MOST_PORT = 65535
MOST_BYTES = 1 << 16  # of a request
# One file each: nothing is fetched from elsewhere, and no other site may frame them.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; frame-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# The report needs no scripts, and may be somebody else's.
REPORT_HEADERS = HEADERS | {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; base-uri 'none'; "
        "form-action 'none'"
    )
}


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person decides of one text."""

    label: str
    keep: bool


class ReviewDesk:
    """The table of one run that a person works on: what they are asked, until it is answered, else the review."""

    def __init__(self, folder: RunFolder) -> None:
        """Writes the review where there is none. Raises InputError for a table with faults."""
        self.folder, self.task = folder, folder.manifest().task
        asks = has_table(folder, ASK) and decisions(folder, ASK, self.task).open
        self.name = ASK if asks else REVIEW
        if not asks:
            with folder.lock():
                open_review(folder)
        self.rows = written_rows(folder, self.name)

    def view(self) -> dict[str, Any]:
        """All that the page shows."""
        answers = answers_in(self.folder, self.name, self.task)
        return {
            "task": self.task.name,
            "instruction": self.task.instruction,
            "labels": self.task.label_names,
            "table": f"{self.name}.csv",
            "has_report": self.folder.has("report.html"),
            "rows": [{**msgspec.to_builtins(row), "said": answers[row.id]} for row in self.rows],
        }

    def decide(self, name: str, decision: Decision) -> ReviewAnswer:
        """Put a decision into the table. Raises InputError where it cannot be one, or the table is in use."""
        label = label_named(decision.label, self.task.label_names)
        if label is None or (decision.keep and not label):
            raise InputError(
                f"unknown label {decision.label!r}; allowed are {shorten(self.task.label_names, MOST_NAMED)}."
            )
        with self.folder.lock():
            path = self.folder.path / f"{self.name}.csv"
            answers = answers_in(self.folder, self.name, self.task)
            if name not in answers:
                raise InputError(f"there is no text {name!r} in {path}.")
            if columns := own_columns(path, self.task):
                raise InputError(f"{path} has columns of yours ({', '.join(columns)}), so go on in the spreadsheet.")
            answers[name] = ReviewAnswer(label=label, keep=decision.keep)
            write_review(path, self.rows, answers, task=self.task)
        return answers[name]


def review_app(desk: ReviewDesk, token: str) -> "Starlette":
    """Answers below /``token``/ alone, to this machine's own names."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Mount, Route

    def answer(value: Any, code: int = 200) -> Response:
        return Response(msgspec.json.encode(value), code, HEADERS, "application/json")

    async def page(request: "Request") -> "Response":
        return HTMLResponse(resources.files(__package__).joinpath("page.html").read_text("utf-8"), headers=HEADERS)

    async def report(request: "Request") -> "Response":
        if not desk.folder.has("report.html"):
            return answer({"error": "There is no report yet: a run writes it at its end."}, 404)
        return HTMLResponse((desk.folder.path / "report.html").read_bytes(), headers=REPORT_HEADERS)

    async def rows(request: "Request") -> "Response":
        return answer(desk.view())

    async def decide(request: "Request") -> "Response":
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return answer({"error": f"The body has more than {MOST_BYTES:,} bytes."}, 413)
        return answer(desk.decide(request.path_params["name"], msgspec.json.decode(body, type=Decision)))

    async def refuse(request: "Request", error: Exception) -> "Response":
        return answer({"error": str(error)}, 400)

    routes = [
        Route("/", page),
        Route("/report", report),
        Route("/rows", rows),
        Route("/rows/{name}", decide, methods=["PUT"]),
    ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
        exception_handlers={FourshotError: refuse, msgspec.DecodeError: refuse, OSError: refuse},
    )


def serve_review(folder: RunFolder, port: int, opened: Callable[[str], None]) -> None:
    """Answer on this machine until Ctrl-C; ``opened`` gets the address. Raises InputError for a port that is taken."""
    import uvicorn

    if not 0 <= port <= MOST_PORT:
        raise InputError(f"--port {port} is no port: they go from 0, which takes a free one, to {MOST_PORT:,}.")
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be had: {str(error).rstrip('.')}. Give another --port, or leave it out."
            ) from error
        desk, token = ReviewDesk(folder), secrets.token_urlsafe(16)  # writes a table, so not before there is a port
        bound.listen()  # whoever opens the address at once waits until there is an answer
        opened(f"http://{HOST}:{bound.getsockname()[1]}/{token}/")
        server = uvicorn.Server(uvicorn.Config(review_app(desk, token), log_level="warning", access_log=False))
        with suppress(KeyboardInterrupt):
            server.run(sockets=[bound])

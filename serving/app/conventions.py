"""ASGI middleware for what holds on every route, ours or vLLM's: trailing slashes, HEAD, and the format of errors.

FastAPI, Starlette and vLLM each have error formats of their own, and redirect or reject requests that are valid here.
"""

import asyncio
import contextlib
import logging
from http import HTTPStatus
from typing import Any

import msgspec

from fourshot.serving.answers import JSON, RefusalError, send_refusal, stopping
from fourshot.serving.api import ErrorAnswer

logger = logging.getLogger("fourshot.serving")
MOST_ERROR_BYTES = 64 << 10  # of an error that is converted
MOST_PATH_CHARS = 100  # of a path, in a message
TEXT = b"text/plain"

Scope = dict[str, Any]


class Conventions:
    """The middleware, as pure ASGI, around the application or around the guard.

    - A trailing slash makes no difference. A redirect would name the host as this process knows it: behind a proxy,
      that is a different host, and without TLS.
    - HEAD is supported wherever GET is.
    - An error in another format is converted to the documented one, and keeps its status and headers.
    - An exception of the application becomes a 500 and is logged.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope = {**scope, **without_slash(scope)}
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        if scope["method"] == "HEAD":
            scope["method"] = "GET"
        if not scope["path"].startswith("/"):  # "*", or a malformed target
            message = f"{scope['path'][:MOST_PATH_CHARS]!r} is not a path of this service: paths begin with a slash."
            await send_refusal(answer, RefusalError(400, "bad_request", message))
            return
        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:  # the time to finish requests before a stop is over
            if not answer.has_begun:
                await send_refusal(answer, stopping())
            raise
        except Exception as error:
            logger.exception("%s has failed", type(error).__name__)
            if answer.has_begun:
                raise
            await send_refusal(answer, RefusalError(500, "fault", "The service has failed; its log says how."))


def without_slash(scope: Scope) -> Scope:
    """Return the items of ``scope`` that change without trailing slashes; an escaped slash is part of a name."""
    path, raw = scope["path"], (scope.get("raw_path") or b"").partition(b"?")[0]
    if not path.endswith("/") or (raw and not raw.endswith(b"/")):
        return {}
    stripped = raw.rstrip(b"/")
    ending = len(raw) - len(stripped) if raw else len(path)
    shorter = path[: max(len(path) - ending, len(path.rstrip("/")))]
    return {"path": shorter or "/", **({"raw_path": stripped or b"/"} if raw else {})}


class _Answer:
    """An ASGI ``send`` for one request: passes responses on, but holds an error back until it can be converted."""

    def __init__(self, scope: Scope, send: Any) -> None:
        self._scope, self._send, self._head = scope, send, scope["method"] == "HEAD"
        self._held_start: dict[str, Any] | None = None
        self._body = b""
        self.has_begun = False

    async def __call__(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._held_start = message
            return
        if self._held_start is not None and message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if message.get("more_body") and len(self._body) <= MOST_ERROR_BYTES:
                return
            start, self._held_start = self._held_start, None
            if not message.get("more_body"):
                start, self._body = in_form(self._scope, start, self._body)
            await self._hand_on(start)
            message = {**message, "body": self._body}
        await self._hand_on(message)

    async def _hand_on(self, message: dict[str, Any]) -> None:
        self.has_begun = True
        if self._head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)


def in_form(scope: Scope, start: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the start message and the body of an error, converted to the documented format if necessary."""
    try:
        msgspec.json.decode(body, type=ErrorAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        headers = dict(start.get("headers", ()))
        body = RefusalError(start["status"], *_kind_and_message(scope, start["status"], headers, body)).body
        dropped = (b"content-type", b"content-length", b"content-encoding")
        remaining = [(name, value) for name, value in start.get("headers", ()) if name.lower() not in dropped]
        replaced = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode())]
        start = {**start, "headers": [*remaining, *replaced]}
    return start, body


def _kind_and_message(scope: Scope, code: int, headers: dict[bytes, bytes], body: bytes) -> tuple[str, str]:
    """Return the error type and the message for an error of the framework."""
    path = scope["path"][:MOST_PATH_CHARS]
    if code == 404:
        return "not_found", (
            f"There is nothing at {path!r}. Texts are classified by POST /v1/classify/{{task}}, and generated by "
            "POST /v1/generate/{task}; GET /v1/tasks lists the tasks, and /docs all paths."
        )
    if code == 405:
        allowed = headers.get(b"allow", b"").decode("latin-1") or "another method"
        return "method_not_allowed", f"{scope['method']} is not allowed at {path!r}. Use {allowed}."
    if code == 400 and scope["method"] == "OPTIONS":
        refused = body.decode("utf-8", "replace").partition("Disallowed CORS ")[2]  # Starlette's words
        if refused and "origin" not in refused:
            return "cors", f"Pages of this origin may send requests, but not with this {refused}."
        return (
            "cors",
            "Pages of this origin may not send requests. Start the service with --cors-origin ORIGIN to allow them.",
        )
    phrase = HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else "Error"
    detail = ""
    if headers.get(b"content-type", b"").startswith(TEXT) and code < 500:
        detail = body.decode("utf-8", "replace").strip()
    else:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, KeyError):
            detail = str(msgspec.json.decode(body, type=dict[str, Any])["detail"])
    return phrase.lower().replace(" ", "_").replace("-", "_"), detail or f"{phrase}."

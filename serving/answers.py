"""Responses over ASGI: JSON, and refusals with their headers.

All parts of the service send their responses with this module: the server, the guard in front of it, the router, and
the supervisor while no server runs.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from fourshot.serving.api import ErrorAnswer, Fault

JSON = "application/json"
MOST_NAME_CHARS = 100  # of a name given by a client, in a message


class RefusalError(Exception):
    """A refused request: ``code`` is the HTTP status, ``kind`` the error type for programs, the message for people."""

    def __init__(self, code: int, kind: str, message: str, retry_after_s: float = 0.0) -> None:
        """``retry_after_s`` 0: without the header Retry-After."""
        super().__init__(message)
        self.code, self.kind, self.retry_after_s = code, kind, retry_after_s

    @property
    def body(self) -> bytes:
        return msgspec.json.encode(ErrorAnswer(error=Fault(message=str(self), type=self.kind, code=self.code)))

    @property
    def headers(self) -> dict[str, str]:
        """The headers in addition to Content-Type and Content-Length."""
        headers = {}
        if self.retry_after_s:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.code == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.code == 415:
            headers["Accept-Encoding"] = "gzip, deflate"
        if self.code in (408, 413):
            headers["Connection"] = "close"  # the rest of the body is not read
        return headers


def stopping() -> RefusalError:
    """Return the refusal of a request that arrives while the service is stopping."""
    return RefusalError(503, "stopping", "The service is being stopped.", 5.0)


def quoted(name: str) -> str:
    """Return a name given by a client for use in a message: quoted, and cut if it is long."""
    return repr(name if len(name) <= MOST_NAME_CHARS else f"{name[:MOST_NAME_CHARS]}...")


async def send_answer(
    send: Any, code: int, body: bytes, headers: Mapping[str, str] | None = None, content_type: str = JSON
) -> None:
    """Send a complete response through ASGI's ``send``."""
    all_headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})}
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": code, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


async def send_refusal(send: Any, refusal: RefusalError) -> None:
    """Send ``refusal`` through ASGI's ``send``."""
    await send_answer(send, refusal.code, refusal.body, refusal.headers)

"""What an answer looks like on the wire: refusals, with their headers, and JSON over ASGI.

Every process of the service answers through here: the server, the guard before it, the router, and the supervisor
while there is no server.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from fourshot.serving.api import ErrorAnswer, Fault

JSON = "application/json"
MOST_NAME_CHARS = 100  # of what a client calls something, in a message


class RefusalError(Exception):
    """A request that is not answered: ``code`` is HTTP's, ``kind`` a word for machines, the message for people."""

    def __init__(self, code: int, kind: str, message: str, retry_after_s: float = 0.0) -> None:
        """``retry_after_s`` 0: the client is not asked to try again."""
        super().__init__(message)
        self.code, self.kind, self.retry_after_s = code, kind, retry_after_s

    @property
    def body(self) -> bytes:
        return msgspec.json.encode(ErrorAnswer(error=Fault(message=str(self), type=self.kind, code=self.code)))

    @property
    def headers(self) -> dict[str, str]:
        """Beside type and length."""
        headers = {}
        if self.retry_after_s:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.code == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.code == 415:
            headers["Accept-Encoding"] = "gzip, deflate"
        if self.code in (408, 413):
            headers["Connection"] = "close"  # what is left of the body is not waited for
        return headers


def stopping() -> RefusalError:
    """For whoever asks while the service ends."""
    return RefusalError(503, "stopping", "The service is being stopped.", 5.0)


def quoted(name: str) -> str:
    """A name that a client gave, for a message: quoted, and cut where it is long."""
    return repr(name if len(name) <= MOST_NAME_CHARS else f"{name[:MOST_NAME_CHARS]}...")


async def send_answer(
    send: Any, code: int, body: bytes, headers: Mapping[str, str] | None = None, content_type: str = JSON
) -> None:
    """Send a whole answer through ASGI's ``send``."""
    all_headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **(headers or {})}
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": code, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


async def send_refusal(send: Any, refusal: RefusalError) -> None:
    """Send ``refusal`` through ASGI's ``send``."""
    await send_answer(send, refusal.code, refusal.body, refusal.headers)

"""ASGI middleware around all of vLLM's routes: authentication, and limits on body size, concurrency and duration.

vLLM's own check knows one kind of key and does not limit bodies. Here a request is authenticated first. Then its body
is received, compressed or not, within limits on size, depth and time. Only then does the application see the request.
"""

import asyncio
import contextlib
import logging
import os
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from starlette.middleware.cors import CORSMiddleware

from fourshot.engine.errors import InputError
from fourshot.serving.answers import RefusalError, send_refusal
from fourshot.serving.api import HEALTH_PATHS, TASK_PATHS
from fourshot.serving.app.conventions import Conventions
from fourshot.serving.app.docs_page import DOCS_FILES, DOCS_PATHS, SCRIPT, STYLE
from fourshot.serving.app.hosts import check_host
from fourshot.serving.app.keys import Key, Keys
from fourshot.serving.settings import ENVIRONMENT, Limits, from_json

logger = logging.getLogger("fourshot.serving")
ACCESS = "fourshot.access"  # in the scope of a request: its `Key`
CLIENT_NAME = "fourshot.asker"  # in the scope: the name of its key, or else the peer's address
ON_BEHALF = b"x-fourshot-asker"  # header set by the router of replicas: the `CLIENT_NAME` that it determined
FOR_TASKS = b"x-fourshot-tasks"  # also set by the router: the tasks of the client's key; absent for all
# Served without a key: they expose no user data, and a browser has no key to send when it opens a page.
OPEN_PATHS = ("/", *HEALTH_PATHS, *DOCS_PATHS, f"{DOCS_FILES}/{SCRIPT}", f"{DOCS_FILES}/{STYLE}")
TASKS_PATH = "/v1/tasks"  # with `TASK_PATHS`, all that a key for some tasks may request
READ_KEYS_EVERY_S = 2.0
OTHER_KEYS = (b"x-api-key", b"api-key", b"x-goog-api-key", b"ocp-apim-subscription-key")  # used by other services
PREFLIGHT = {b"origin", b"access-control-request-method"}  # headers; Source: the Fetch standard, CORS-preflight fetch
NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
ALL_SQUARE = bytes.maketrans(b"{}", b"[]")
MOST_DIGITS = 18  # of a Content-Length: no body needs more, and Python parses no number with thousands of digits
MOST_MEMBERS = 100  # of a gzip body: each one costs a copy of all the data after it
SHALLOW = 16  # brackets, up to which their depth is not counted

Scope = dict[str, Any]


class Guard:
    """The middleware, as pure ASGI; vLLM's server instantiates it for its option ``--middleware``."""

    def __init__(
        self,
        app: Any,
        limits: Limits | None = None,
        keys: Keys | None = None,
        cors_origins: Sequence[str] = (),
        behind_router: bool = False,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        """Without ``limits``, all settings are those in `serving.settings.ENVIRONMENT`.

        ``allowed_hosts``: as `serving.app.hosts.hosts_of` returns them.
        """
        self._app = app
        if limits is None:
            settings = from_json(os.environ[ENVIRONMENT])
            limits, keys = settings.limits, Keys(settings.keys) if settings.keys else None
            cors_origins, behind_router = settings.cors_origins, settings.behind_router
            allowed_hosts = settings.allowed_hosts
        self._allowed_hosts = allowed_hosts
        self._limits, self._keys, self._behind_router = limits, keys, behind_router
        self._read_keys_at, self._keys_fault = 0.0, ""  # the fault that was logged last
        self._busy: Counter[str] = Counter()
        guarded: Any = self._guarded
        if cors_origins:  # outside the key check: a page must be able to read a refusal, too
            guarded = CORSMiddleware(
                guarded,
                allow_origins=cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("*",),  # clients add their own, such as OpenAI's for JavaScript
                expose_headers=("Retry-After",),
            )
        self._conventions = Conventions(guarded)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        await self._conventions(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        client_name = None
        try:
            key = self._admit(scope)
            client_name = self._client_name(scope, key)
            limit = (key.max_concurrent if key else 0) or self._limits.max_concurrent
            # Behind a router, the router has counted them, by its own keys.
            if self._busy[client_name] >= limit and not self._behind_router:
                client_name = None
                owner = "This key" if key else "This address"
                raise RefusalError(
                    429,
                    "too_many_requests",
                    f"{owner} has {limit} request{'s' if limit > 1 else ''} in progress, which is its limit.",
                    1.0,
                )
            self._busy[client_name] += 1  # before its body is received, which takes memory
            if scope["type"] == "http":
                scope, receive, is_gone = await self._body(scope, receive)
                if is_gone:
                    return  # the client left before its body was complete
            await self._app({**scope, ACCESS: key, CLIENT_NAME: client_name}, receive, send)
        except RefusalError as refusal:
            with contextlib.suppress(OSError):
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": 1008, "reason": str(refusal)[:120]})
                else:
                    await send_refusal(send, refusal)
        finally:
            if client_name is not None:
                self._busy[client_name] -= 1
                if not self._busy[client_name]:
                    del self._busy[client_name]  # else an entry would stay for every address

    def _client_name(self, scope: Scope, key: Key | None) -> str:
        """Return the name by which requests share the queue fairly: the key's, or without keys the address's."""
        if self._behind_router:
            return next((value.decode("latin-1") for name, value in scope["headers"] if name == ON_BEHALF), "")
        return f"key {key.name}" if key else client_of_address((scope.get("client") or ("",))[0])

    def _admit(self, scope: Scope) -> Key | None:
        """Return the key of the request, or None if it needs none. Raises `RefusalError`."""
        path = scope["path"]
        if self._allowed_hosts and path not in HEALTH_PATHS:  # health checks use any address
            check_host(scope["headers"], self._allowed_hosts)
        if self._keys is None or (path in OPEN_PATHS and scope.get("method") in ("GET", "HEAD")):
            return None
        if scope.get("method") == "OPTIONS" and {name for name, _ in scope["headers"]} >= PREFLIGHT:
            return None  # a browser's preflight request carries no key, and its response no data
        self._refresh_keys()
        field = next((value for name, value in scope["headers"] if name == b"authorization"), b"").decode("latin-1")
        key = self._keys.find(field)
        if key is None:
            raise RefusalError(401, "no_key", f"{no_key(scope, field)} Give one as: Authorization: Bearer KEY.")
        if self._behind_router:  # the router's own key is for all tasks, its client's may not be
            fields = [value.decode("latin-1") for name, value in scope["headers"] if name == FOR_TASKS]
            key = key.limited_to(fields[0]) if fields else key
        if key.tasks and not (path.startswith(TASK_PATHS) or path == TASKS_PATH):
            raise RefusalError(403, "forbidden", f"This key is for the tasks {', '.join(key.tasks)} and nothing else.")
        return key

    def _refresh_keys(self) -> None:
        now = time.monotonic()
        if self._keys is not None and now - self._read_keys_at >= READ_KEYS_EVERY_S:
            self._read_keys_at = now
            try:
                self._keys.refresh()
                self._keys_fault = ""
            except InputError as error:
                if self._keys_fault != (fault := str(error)):
                    logger.warning("%s; the keys that were loaded before stay valid", fault)
                self._keys_fault = fault

    async def _body(self, scope: Scope, receive: Any) -> tuple[Scope, Any, bool]:
        """Receive the body. Return a new ``scope`` and ``receive``, and whether the client has left meanwhile.

        The new ``receive`` gives the complete body at once, decompressed. Raises `RefusalError` for a body that is too
        large, slow or deep, or has an encoding other than gzip and deflate.
        """
        limits = self._limits
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        declared = declared.lstrip(b"0")[:MOST_DIGITS] or b"0"
        if declared.isdigit() and int(declared) > limits.max_body_bytes:
            raise RefusalError(
                413, "too_large", f"The body has {int(declared)} bytes; at most {limits.max_body_bytes} are allowed."
            )
        parts, size = [], 0
        deadline = time.monotonic() + limits.body_timeout_s
        while True:
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise RefusalError(
                    408, "timeout", f"The body did not arrive within {limits.body_timeout_s:g} s."
                ) from None
            if message["type"] == "http.disconnect":
                return scope, receive, True
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limits.max_body_bytes:
                raise RefusalError(413, "too_large", f"The body has more than {limits.max_body_bytes} bytes.")
            if not message.get("more_body", False):
                break
        body = b"".join(parts)
        encodings = (
            b",".join(value for name, value in scope["headers"] if name == b"content-encoding").lower().split(b",")
        )
        packed = b", ".join(encoding.strip() for encoding in encodings if encoding.strip() not in (b"", b"identity"))
        if body and packed:
            body = unpacked(body, packed, limits.max_body_bytes)
            kept = [pair for pair in scope["headers"] if pair[0] not in (b"content-encoding", b"content-length")]
            scope = {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}
        if json_depth(body, limits.max_json_depth) > limits.max_json_depth:
            raise RefusalError(400, "too_deep", f"The body is nested deeper than {limits.max_json_depth} levels.")
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Any:
            return waiting.pop() if waiting else await receive()

        return scope, replay, False


@lru_cache(maxsize=1 << 12)
def client_of_address(address: str) -> str:
    """Return what identifies the client at ``address``: an IPv4 address itself, or the /64 network of an IPv6 address.

    An IPv6 client can use any number of addresses, and shares the first 64 bits with no other client.
    Source: RFC 4291, section 2.5.4 (subnets have 64 bits).
    """
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return address  # a Unix socket, or whatever a proxy sent
    if isinstance(known, IPv4Address):
        return address
    return str(known.ipv4_mapped or ip_network((known, 64), strict=False))


def no_key(scope: Scope, authorization: str) -> str:
    """Return why a request has no valid key. Of what was sent, only the form is mentioned."""
    scheme, _, rest = authorization.partition(" ")
    if not authorization:
        field = next((name.decode("latin-1") for name, _ in scope["headers"] if name in OTHER_KEYS), "")
        return f"The key is in the header {field}, which is not read." if field else "There is no key in the request."
    if not rest.strip():
        return "The header Authorization holds one word, and needs two."
    if scheme.lower() != "bearer":
        return "The header Authorization does not begin with Bearer."
    return "The key is not known here."


def unpacked(body: bytes, encoding: bytes, most_bytes: int) -> bytes:
    """Return the decompressed ``body``; ``encoding`` is its Content-Encoding.

    Raises `RefusalError` if it is unknown or damaged, or gives more than ``most_bytes``: it stops one byte beyond them.
    """
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise RefusalError(
            415,
            "unknown_encoding",
            f"The body is compressed as {encoding.decode('latin-1')[:50]!r}; gzip and deflate are supported. Send one "
            "of these, or the body uncompressed.",
        )
    content, members = b"", 0
    # Some libraries send deflate without a zlib header.
    is_bare = encoding == b"deflate" and not (body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0)
    while body:  # gzip allows several members, and zeros after them
        unpacking = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else zlib.MAX_WBITS | 32)  # 32: by the header
        try:
            content += unpacking.decompress(body, most_bytes + 1 - len(content))
        except zlib.error as error:
            raise RefusalError(400, "bad_encoding", f"The body cannot be decompressed: {error}.") from None
        if len(content) > most_bytes:
            raise RefusalError(413, "too_large", f"The body has more than {most_bytes} bytes when it is decompressed.")
        if not unpacking.eof:
            raise RefusalError(400, "bad_encoding", "The body cannot be decompressed: its end is missing.")
        if (members := members + 1) > MOST_MEMBERS:
            raise RefusalError(
                400, "bad_encoding", f"The body is compressed in more than {MOST_MEMBERS} parts. Use one."
            )
        body = unpacking.unused_data.lstrip(b"\0")
    return content


def json_depth(body: bytes, most: int) -> int:
    """Return how deeply the brackets of a JSON text are nested, without those in strings; 0 for few (`SHALLOW`).

    Above ``most``, the result may be too low. Innermost pairs are removed level by level. In invalid JSON, unclosed
    brackets count as levels, too.
    """
    if body.count(b"[") + body.count(b"{") <= SHALLOW:
        return 0
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = b"".join(unescaped.split(b'"')[::2]).translate(ALL_SQUARE, NO_BRACKETS)
    levels = 0
    while b"[]" in brackets and levels <= most:
        brackets, levels = brackets.replace(b"[]", b""), levels + 1
    return levels + brackets.count(b"[")

"""One address in front of several replicas: an ASGI app that forwards each request to one of them.

Adapters and cached prefixes are local to a replica. So requests of a task are sent to the same one as long as it is
healthy and not busier than the others (rendezvous hashing with bounded loads: Thaler & Ravishankar 1998; Mirrokni,
Thorup & Zadimoghaddam 2018). A request whose replica dies before it responds is sent to another: classification is
idempotent.
"""

import asyncio
import contextlib
import hashlib
import logging
import math
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from fourshot.serving.answers import RefusalError, send_answer, send_refusal, stopping
from fourshot.serving.api import DEADLINE, HEALTH_PATHS, TASK_PATHS, TaskList
from fourshot.serving.app.guard import ACCESS, CLIENT_NAME, FOR_TASKS, ON_BEHALF, TASKS_PATH
from fourshot.serving.app.keys import Key
from fourshot.serving.app.requests import deadline_s
from fourshot.serving.fleet.asgi import Drain, lifespan, while_there
from fourshot.serving.fleet.merged_pages import merged, summed
from fourshot.serving.settings import Limits

logger = logging.getLogger("fourshot.serving")
HEALTH_CHECK_EVERY_S = 0.5
HEALTH_TIMEOUT_S = 5.0  # for the response to a health check
AWAY_S = 0.4  # for an unhealthy replica to send its page or list: clients, such as the page, must not wait longer
CONNECT_S = 5.0
MOST_MISSES = 2  # health checks in a row without a response: a busy machine responds late
PATIENCE_S = 3.0  # while no replica is healthy any more: one may only be busy, or be back at once
KEPT_S = 2.0  # an idle connection: a replica closes it, too, and may do so just as a request is sent
BOUND = 1.25  # times the mean load, above which a task's own replica is passed over
SPARE = 2  # requests on top of that, so that few requests are not moved at all (docs/serving.md says why no more)
MOST_TASK_CHARS = 128  # that are hashed: a client may send names as long as its headers, and each is cached
RETRIED_CODES = (502, 503)  # from a replica that is stopping or starting
OWN_PATHS = ("/health", "/metrics")  # answered here, for all replicas
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"upgrade", b"expect", b"host"}
HOP_BY_HOP |= {b"authorization", ON_BEHALF, FOR_TASKS}  # set by the router itself
OF_ANY_SERVER = {b"date", b"server"}  # set by the server of this app, too


class Replica:
    """A server, as the router sees it."""

    def __init__(self, number: int, address: str) -> None:
        self.number, self.address = number, address
        self.healthy = False
        self.in_flight = 0
        self.misses = 0


class Router:
    """The ASGI app. `watch` must run beside it."""

    def __init__(self, replicas: Sequence[Replica], limits: Limits, key: str, spare: int = SPARE) -> None:
        """``key``: required by the replicas; the guard in front of this app has checked the client's own."""
        self.replicas, self._limits, self._key, self._spare = list(replicas), limits, key, spare
        self._session: aiohttp.ClientSession | None = None
        self._was_up = False  # whether any of them ever was
        self._health_checks: set[asyncio.Task[None]] = set()
        self.drain = Drain()

    async def open(self) -> None:
        """Open the connections to replicas. Must be called on the event loop that serves."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_S),
            auto_decompress=False,
        )

    async def close(self) -> None:
        for check in self._health_checks:
            check.cancel()
        if self._session is not None:
            await self._session.close()

    async def watch(self) -> None:
        """Check the health of every replica until cancelled; one that does not respond delays none of the others."""
        await asyncio.gather(*map(self._follow, self.replicas))

    async def _follow(self, replica: Replica) -> None:
        while True:
            await self._check_health(replica)
            await asyncio.sleep(HEALTH_CHECK_EVERY_S)

    async def _check_health(self, replica: Replica) -> None:
        assert self._session is not None
        misses = 0
        try:
            timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
            async with self._session.get(f"{replica.address}/health", timeout=timeout) as answer:
                healthy = answer.status == 200
        except TimeoutError:
            misses = replica.misses + 1
            healthy = replica.healthy and misses < MOST_MISSES
        except Exception:  # of any kind: else the checks would end
            healthy = False
        replica.misses = misses
        self._was_up = self._was_up or healthy
        if healthy != replica.healthy:
            logger.info("replica %d at %s is %s", replica.number, replica.address, "well" if healthy else "away")
        replica.healthy = healthy

    def order(self, path: str) -> list[Replica]:
        """Return the healthy replicas in the order in which to try them for a request at ``path``."""
        healthy = [replica for replica in self.replicas if replica.healthy]
        if not path.startswith(TASK_PATHS):
            return sorted(healthy, key=lambda replica: replica.in_flight)
        ranks = preference(_task_in(path)[:MOST_TASK_CHARS], tuple(replica.number for replica in healthy))
        ranked = [healthy[index] for index in ranks]
        bound = BOUND * sum(replica.in_flight for replica in healthy) / max(1, len(healthy)) + self._spare
        return sorted(ranked, key=lambda replica: replica.in_flight > bound)  # a stable sort: the busy ones come last

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1011})
            return
        path = scope["path"]
        if path in OWN_PATHS and scope["method"] != "GET":
            refusal = RefusalError(405, "method_not_allowed", f"{scope['method']} is not allowed at {path!r}. Use GET.")
            await send_answer(send, refusal.code, refusal.body, {"Allow": "GET"})
            return
        is_health = path == "/health" or (path in HEALTH_PATHS and scope["method"] == "GET")  # /ping takes POST, too
        if self.drain.stopping and (is_health or scope["method"] == "POST"):
            await send_refusal(send, stopping())
            return
        if is_health:
            if any(replica.healthy for replica in self.replicas):
                await send_answer(send, 200, msgspec.json.encode({"status": "well"}))
            else:
                await send_refusal(send, RefusalError(503, "starting", "No replica is ready.", 5.0))
            return
        key: Key | None = scope.get(ACCESS)
        if key is not None and path.startswith(TASK_PATHS):
            try:
                key.require(_task_in(path))
            except RefusalError as refusal:
                await send_refusal(send, refusal)
                return
        if path == "/metrics":
            await send_answer(send, 200, await self._metrics(), content_type=METRICS_TYPE)
            return
        if path == TASKS_PATH and scope["method"] == "GET" and (listed := await self._tasks(scope)):
            await send_answer(send, 200, msgspec.json.encode(key.visible(listed) if key is not None else listed))
            return
        body = (await receive()).get("body", b"")
        await while_there(receive, send, partial(self.drain.answer, partial(self._forward, scope, body)))

    async def _forward(self, scope: dict[str, Any], body: bytes, send: Any) -> None:
        """Forward a request; if its replica fails before the first byte of a response, to the next one."""
        try:
            asked_s = deadline_s(scope["headers"])
        except RefusalError as refusal:
            await send_refusal(send, refusal)
            return
        due = time.monotonic() + asked_s  # infinity without a deadline
        deadline = min(due, time.monotonic() + self._limits.timeout_s)
        tried: set[int] = set()
        patient_until = 0.0 if not self._was_up else time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            replica = next((home for home in self.order(scope["path"]) if home.number not in tried), None)
            if replica is None:
                if not any(replica.healthy for replica in self.replicas) and time.monotonic() >= patient_until:
                    break
                tried.clear()
                await asyncio.sleep(HEALTH_CHECK_EVERY_S / 2)
                continue
            tried.add(replica.number)
            if await self._ask(replica, scope, body, send, due - time.monotonic()):
                return
        if time.monotonic() >= due:
            message = f"There was no response within {asked_s:g} s, as {DEADLINE} requires."
            await send_refusal(send, RefusalError(504, "timeout", message, 1.0))
            return
        await send_refusal(send, RefusalError(503, "no_replica", "No replica is ready just now.", 5.0))

    async def _ask(self, replica: Replica, scope: dict[str, Any], body: bytes, send: Any, left_s: float) -> bool:
        """Forward a request; return whether ``replica`` responded. If not, nothing was sent to the client.

        ``left_s``: seconds until the client's deadline.
        """
        assert self._session is not None
        raw = scope.get("raw_path") or scope["path"].encode()
        address = f"{replica.address}{raw.split(b'?')[0].decode('latin-1')}{_query(scope)}"
        replica.in_flight += 1
        has_begun = False
        try:
            # Completions of vLLM's own routes take as long as their clients wait.
            total_s = self._limits.timeout_s + 30 if scope["path"].startswith(TASK_PATHS) else None
            async with self._session.request(
                scope["method"],
                URL(address, encoded=True),
                data=body or None,
                headers=self._headers(scope, left_s),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=total_s, connect=CONNECT_S),
            ) as answer:
                if answer.status in RETRIED_CODES and answer.headers.get("Retry-After"):
                    return False
                answer_headers = [
                    (name.lower(), value)
                    for name, value in answer.raw_headers
                    if name.lower() not in HOP_BY_HOP | OF_ANY_SERVER
                ]
                parts = answer.content.iter_any()
                first = await anext(parts, b"")  # before the headers: a replica that dies now has not responded
                has_begun = True
                await send({"type": "http.response.start", "status": answer.status, "headers": answer_headers})
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                return True
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if has_begun:
                raise
            replica.healthy = False  # until the check that follows: it may only have closed this connection
            check = asyncio.create_task(self._check_health(replica))
            self._health_checks.add(check)
            check.add_done_callback(self._health_checks.discard)
            logger.info("replica %d did not answer: %s: %s", replica.number, type(error).__name__, error)
            return False
        finally:
            replica.in_flight -= 1

    def _headers(self, scope: dict[str, Any], left_s: float) -> list[tuple[str, str]]:
        """Return the headers for a replica: the client's own and its name, its key's tasks, and the router's key."""
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in HOP_BY_HOP and name != DEADLINE.lower().encode()
        ]
        if left_s < math.inf:
            headers.append((DEADLINE, str(max(1, round(1000 * left_s)))))
        key: Key | None = scope.get(ACCESS)
        if key is not None and key.tasks:  # else the replica would show all that the router's key may see
            headers.append((FOR_TASKS.decode(), key.tasks_field(_task_in(scope["path"]))))
        client_name = quote(scope.get(CLIENT_NAME, ""))
        return [*headers, ("Authorization", f"Bearer {self._key}"), (ON_BEHALF.decode(), client_name)]

    async def _pages(self, path: str, replicas: Sequence[Replica]) -> dict[int, str]:
        """Return the responses at ``path`` of those ``replicas`` that respond, by their numbers."""
        assert self._session is not None
        session, pages = self._session, dict[int, str]()

        async def fetch(replica: Replica) -> None:
            timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S if replica.healthy else AWAY_S)
            headers = {"Authorization": f"Bearer {self._key}"}
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError):
                address = URL(f"{replica.address}{path}", encoded=True)
                async with session.get(address, headers=headers, timeout=timeout, raise_for_status=True) as answer:
                    pages[replica.number] = await answer.text()

        await asyncio.gather(*map(fetch, replicas))
        return dict(sorted(pages.items()))

    async def _metrics(self) -> bytes:
        """Return the metrics of all replicas, each sample with the number of its replica."""
        return await asyncio.to_thread(merged, await self._pages("/metrics", self.replicas))

    async def _tasks(self, scope: dict[str, Any]) -> TaskList | None:
        """Return the tasks of the first replica, with the requests of all; None if none responds with a list."""
        healthy = [replica for replica in self.replicas if replica.healthy]
        pages, lists = await self._pages(f"{TASKS_PATH}{_query(scope)}", healthy), list[TaskList]()
        for page in pages.values():
            with contextlib.suppress(msgspec.DecodeError):  # another program may have the port of one that ended
                lists.append(msgspec.json.decode(page, type=TaskList))
        return summed(lists) if lists else None


def _query(scope: dict[str, Any]) -> str:
    """Return the query with its question mark; "" without one."""
    return f"?{query.decode('latin-1')}" if (query := scope.get("query_string")) else ""


def _task_in(path: str) -> str:
    """Return the task's name in one of `TASK_PATHS`; of another path, its end."""
    return path.split("/", 3)[-1]


@lru_cache(maxsize=1 << 14)  # tasks: with 64 replicas it takes 60 us, and a router is one process
def preference(task: str, replicas: tuple[int, ...]) -> tuple[int, ...]:
    """Return indices into ``replicas`` by rendezvous hashing, that of the task's own replica first."""

    def weight(index: int) -> bytes:
        return hashlib.sha256(f"{task}\n{replicas[index]}".encode()).digest()

    return tuple(sorted(range(len(replicas)), key=weight, reverse=True))

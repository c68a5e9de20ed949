"""One address in front of several replicas: an ASGI app that hands each request to one of them.

Adapters and cached prefixes are per replica, so requests of a task go to the same one as long as it is well and not
busier than the others (rendezvous hashing with bounded loads: Thaler & Ravishankar 1998; Mirrokni, Thorup &
Zadimoghaddam 2018). A request whose replica dies before it answered goes to another: classification has no effect to be
had twice.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec

from fourshot.serving.api import ErrorAnswer, Fault, TaskList
from fourshot.serving.app.guard import ACCESS
from fourshot.serving.settings import Limits

logger = logging.getLogger("fourshot.serving")
CLASSIFY = "/v1/classify/"
LOOK_EVERY_S = 0.5
BOUND = 1.25  # of the mean load, above which a task's own replica is passed over
SPARE = 8  # requests more than that, so that few requests do not move at all
AGAIN = (502, 503)  # what a replica that is going down or coming up answers
HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"upgrade", b"host", b"authorization"}
SAMPLE = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{)?", re.MULTILINE)


class Replica:
    """A server somewhere, as the router sees it."""

    def __init__(self, number: int, address: str) -> None:
        self.number, self.address = number, address
        self.well = False
        self.in_flight = 0
        self.answered = 0


class Router:
    """The app. Start `watch` beside it."""

    def __init__(self, replicas: Sequence[Replica], limits: Limits, key: str) -> None:
        """``key`` is what the replicas ask for; the guard in front of this app has seen to the client's own."""
        self.replicas, self._limits, self._key = list(replicas), limits, key
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Must be called on the loop that serves."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._limits.timeout_s + 30, connect=5),
            auto_decompress=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def watch(self) -> None:
        """Ask every replica how it is, again and again."""
        while True:
            await asyncio.gather(*map(self._look, self.replicas))
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self, replica: Replica) -> None:
        assert self._session is not None
        try:
            timeout = aiohttp.ClientTimeout(total=5)
            async with self._session.get(f"{replica.address}/health", timeout=timeout) as answer:
                well = answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            well = False
        if well != replica.well:
            logger.info("replica %d at %s is %s", replica.number, replica.address, "well" if well else "away")
        replica.well = well

    def order(self, path: str) -> list[Replica]:
        """Where to try a request, the best first."""
        well = [one for one in self.replicas if one.well]
        if not path.startswith(CLASSIFY):
            return sorted(well, key=lambda one: one.in_flight)
        task = path.removeprefix(CLASSIFY)
        ranked = sorted(well, key=lambda one: _affinity(task, one.number), reverse=True)
        most = BOUND * sum(one.in_flight for one in well) / max(1, len(well)) + SPARE
        return sorted(ranked, key=lambda one: one.in_flight > most)  # a stable sort: the busy ones go last

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1011})
            return
        path = scope["path"]
        if path == "/health":
            state = "well" if any(one.well for one in self.replicas) else "starting"
            await _answer(send, 200 if state == "well" else 503, msgspec.json.encode({"status": state}))
            return
        access = scope.get(ACCESS)
        if access is not None and path.startswith(CLASSIFY) and not access.may_ask(path.removeprefix(CLASSIFY)):
            await _refuse(send, 403, "forbidden", f"This key may not ask {path.removeprefix(CLASSIFY)!r}.")
            return
        if path == "/metrics":
            await _answer(send, 200, await self._metrics(), b"text/plain; version=0.0.4; charset=utf-8")
            return
        body = (await receive()).get("body", b"")
        await self._forward(scope, body, send)

    async def _forward(self, scope: dict[str, Any], body: bytes, send: Any) -> None:
        """Hand a request on; where its replica fails before the first byte of an answer, to the next one."""
        deadline = time.monotonic() + self._limits.timeout_s
        tried: set[int] = set()
        while time.monotonic() < deadline:
            replica = next((one for one in self.order(scope["path"]) if one.number not in tried), None)
            if replica is None:
                if not tried and not any(one.well for one in self.replicas):
                    break
                tried.clear()
                await asyncio.sleep(LOOK_EVERY_S / 2)
                continue
            tried.add(replica.number)
            if await self._ask(replica, scope, body, send):
                return
        await _refuse(send, 503, "no_replica", "No replica is up just now.", retry_after_s=5)

    async def _ask(self, replica: Replica, scope: dict[str, Any], body: bytes, send: Any) -> bool:
        """Whether ``replica`` answered; where not, nothing was sent to the client."""
        assert self._session is not None
        query = scope.get("query_string", b"").decode("latin-1")
        raw = scope.get("raw_path") or scope["path"].encode()
        address = f"{replica.address}{raw.split(b'?')[0].decode('latin-1')}{'?' + query if query else ''}"
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in HOP_BY_HOP
        ]
        headers.append(("Authorization", f"Bearer {self._key}"))
        replica.in_flight += 1
        begun = False
        try:
            from yarl import URL

            async with self._session.request(
                scope["method"], URL(address, encoded=True), data=body or None, headers=headers, allow_redirects=False
            ) as answer:
                if answer.status in AGAIN and answer.headers.get("Retry-After"):
                    return False
                if scope["path"] == "/v1/tasks" and scope.get(ACCESS) is not None and scope[ACCESS].tasks:
                    await _answer(send, answer.status, _only(await answer.read(), scope[ACCESS]))
                    return True
                given = [
                    (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()
                ]
                given = [(name, value) for name, value in given if name not in HOP_BY_HOP]
                parts = _parts(answer)
                first = await anext(parts, b"")  # before the head: a replica that dies now has not answered
                begun = True
                await send({"type": "http.response.start", "status": answer.status, "headers": given})
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                replica.answered += 1
                return True
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if begun:
                raise
            replica.well = False  # until it is looked at again
            logger.info("replica %d did not answer: %s: %s", replica.number, type(error).__name__, error)
            return False
        finally:
            replica.in_flight -= 1

    async def _metrics(self) -> bytes:
        """The metrics of all replicas, each sample with the number of its replica."""
        assert self._session is not None
        pages: list[bytes] = []
        for replica in self.replicas:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                headers = {"Authorization": f"Bearer {self._key}"}
                async with self._session.get(f"{replica.address}/metrics", headers=headers) as answer:
                    pages.append(labelled(await answer.read(), replica.number, comments=not pages))
        return b"".join(pages)


def labelled(page: bytes, replica: int, *, comments: bool) -> bytes:
    """A page of metrics with ``replica`` as a label of every sample; without its comments where they stand already."""
    lines = []
    for line in page.splitlines():
        if line.startswith(b"#") or not line:
            lines += [line] if comments else []
            continue
        name = SAMPLE.match(line)
        assert name is not None, line
        label = b'{replica="%d"' % replica
        rest = line[name.end() :]
        if not name[2]:
            rest = b"}" + rest
        elif not rest.startswith(b"}"):
            rest = b"," + rest
        lines.append(name[1] + label + rest)
    return b"\n".join(lines) + b"\n"


def _affinity(task: str, replica: int) -> bytes:
    return hashlib.sha256(f"{task}\n{replica}".encode()).digest()


def _only(body: bytes, access: Any) -> bytes:
    told = msgspec.json.decode(body, type=TaskList)
    return msgspec.json.encode(
        msgspec.structs.replace(told, tasks=[one for one in told.tasks if access.may_ask(one.task)], refused=[])
    )


async def _parts(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async for part in answer.content.iter_any():
        yield part


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _refuse(send: Any, code: int, kind: str, message: str, retry_after_s: int = 0) -> None:
    body = msgspec.json.encode(ErrorAnswer(error=Fault(message=message, type=kind, code=code)))
    more = [(b"retry-after", str(retry_after_s).encode())] if retry_after_s else []
    await _answer(send, code, body, more=more)


async def _answer(
    send: Any, code: int, body: bytes, kind: bytes = b"application/json", more: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""A load generator: requests sent when they were meant to be sent, in a process of its own.

Open loop: arrivals are a Poisson process, drawn before it starts, and do not wait for answers; latency counts from the
moment a request was meant to be sent, so a server that stalls is not spared the requests that it would have had
(coordinated omission). Closed loop: so many clients, each sending its next request when it has its answer.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from itertools import cycle

import msgspec

from fourshot.bench.core.processes import call_apart

RETRY_S = 0.05  # a client of a closed loop that was refused for load tries again after this


class LoadRequest(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One request to send."""

    kind: str  # what the sender calls it; for whoever reads the answers
    path: str
    body: str


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: requests drawn at random, with replacement, by their weights, or taken ``in_order``."""

    url: str
    requests: tuple[LoadRequest, ...]
    weights: tuple[float, ...] = ()  # of requests that are drawn
    in_order: bool = False  # from the first on, each once before any is sent again
    once: bool = False  # in order, and no more when all were sent
    seconds: float
    rate: float = 0.0  # of an open loop, requests per second; 0: a closed loop
    clients: int = 1  # of a closed loop
    seed: int = 0
    timeout_s: float = 120.0


class LoadAnswer(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What became of one request; seconds since the load began."""

    request: int  # index into the load's requests
    due_s: float  # when it was meant to be sent
    sent_s: float
    done_s: float
    status: int  # 0: the connection failed
    answer: str

    @property
    def latency_s(self) -> float:
        return self.done_s - self.due_s


def arrivals(load: Load) -> Iterator[tuple[float, int]]:
    """When, in seconds, and which request, for an open loop."""
    draw = random.Random(load.seed)
    chosen = choices(load, draw)
    at = draw.expovariate(load.rate)
    while at < load.seconds:
        yield at, next(chosen)
        at += draw.expovariate(load.rate)


def choices(load: Load, draw: random.Random) -> Iterator[int]:
    """Which requests: without end, but for those that are sent once."""
    if load.once:
        yield from range(len(load.requests))
        return
    if load.in_order:
        yield from cycle(range(len(load.requests)))
    while True:
        yield draw.choices(range(len(load.requests)), load.weights)[0]


async def fire(load: Load) -> list[LoadAnswer]:
    """Send everything and wait for all answers."""
    import aiohttp

    answers: list[LoadAnswer] = []
    timeout = aiohttp.ClientTimeout(total=load.timeout_s)
    headers = {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(load.url, timeout=timeout, headers=headers, connector=connector) as session:
        began = time.perf_counter()
        shared = choices(load, random.Random()) if load.in_order or load.once else None

        async def send(number: int, due_s: float) -> int:
            sent_s = time.perf_counter() - began
            try:
                request = load.requests[number]
                body = request.body.encode("utf-8", "surrogateescape")
                async with session.post(request.path, data=body) as answer:
                    status, text = answer.status, await answer.text()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                status, text = 0, f"{type(error).__name__}: {error}"
            done_s = time.perf_counter() - began
            answers.append(
                LoadAnswer(request=number, due_s=due_s, sent_s=sent_s, done_s=done_s, status=status, answer=text)
            )
            return status

        async def client(name: int) -> None:
            for number in shared or choices(load, random.Random(f"{load.seed}-{name}")):
                if (now := time.perf_counter() - began) >= load.seconds:
                    return
                if await send(number, now) in (0, 429, 503):
                    await asyncio.sleep(RETRY_S)

        if load.rate:
            sending = []
            for due_s, number in arrivals(load):
                if (wait_s := due_s - (time.perf_counter() - began)) > 0:
                    await asyncio.sleep(wait_s)
                sending.append(asyncio.create_task(send(number, due_s)))
            await asyncio.gather(*sending)
        else:
            await asyncio.gather(*map(client, range(load.clients)))
    return answers


def send_load(load: Load) -> list[LoadAnswer]:
    return asyncio.run(fire(load))


def generate(load: Load, cores: str = "") -> list[LoadAnswer]:
    """Send ``load`` from a process of its own, on ``cores`` (as taskset names them) where given."""
    return call_apart(send_load, load, cores=cores)

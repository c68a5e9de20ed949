"""An HTTP load generator that runs in its own process and sends requests at their scheduled times.

Open loop: arrivals are a seeded Poisson process and do not wait for answers. Latency counts from the time at which a
request was scheduled, so a stalled server is not spared the requests that were due meanwhile (coordinated omission).
Closed loop: a fixed number of clients, each of which sends its next request after the answer to the last one.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from itertools import cycle

import msgspec

from fourshot.bench.core.processes import call_in_child

RETRY_S = 0.05  # pause of a closed-loop client after a rejected or failed request


class LoadRequest(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One request to send."""

    kind: str  # the caller's name for this kind of request, to group the answers by; not sent
    path: str
    body: str


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """A load to send: requests sampled with replacement by their weights, or taken ``in_order`` or ``once``."""

    url: str
    requests: tuple[LoadRequest, ...]
    weights: tuple[float, ...] = ()  # for sampling, one per request
    in_order: bool = False  # cycle through the requests, beginning with the first
    once: bool = False  # send each request once, in order, then stop
    seconds: float
    rate: float = 0.0  # requests per second of an open loop; 0: a closed loop
    clients: int = 1  # concurrent clients of a closed loop
    seed: int = 0
    timeout_s: float = 120.0


class LoadAnswer(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The outcome of one request; times are seconds since the start of the load."""

    request: int  # index into the load's requests
    due_s: float  # when it was scheduled to be sent
    sent_s: float
    done_s: float
    status: int  # HTTP status; 0: the connection failed or timed out
    answer: str  # response body; for status 0, the error

    @property
    def latency_s(self) -> float:
        return self.done_s - self.due_s


def arrivals(load: Load) -> Iterator[tuple[float, int]]:
    """Yield the arrivals of an open loop: the time in seconds since its start, and the index of the request."""
    draw = random.Random(load.seed)
    chosen = choices(load, draw)
    at = draw.expovariate(load.rate)
    while at < load.seconds:
        yield at, next(chosen)
        at += draw.expovariate(load.rate)


def choices(load: Load, draw: random.Random) -> Iterator[int]:
    """Yield the indices of the requests to send: endlessly, unless each is sent ``once``."""
    if load.once:
        yield from range(len(load.requests))
        return
    if load.in_order:
        yield from cycle(range(len(load.requests)))
    while True:
        yield draw.choices(range(len(load.requests)), load.weights)[0]


async def fire(load: Load) -> list[LoadAnswer]:
    """Send ``load`` and wait for all answers. Return them in order of arrival."""
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
    """Send ``load`` from a separate process, on ``cores`` (in taskset's notation) if given. Return all answers."""
    return call_in_child(send_load, load, cores=cores)

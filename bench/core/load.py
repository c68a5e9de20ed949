"""A load generator: requests sent when they were meant to be sent, in a process of its own.

Open loop: arrivals are a Poisson process, drawn before it starts, and do not wait for answers; latency counts from the
moment a request was meant to be sent, so a server that stalls is not spared the requests that it would have had
(coordinated omission). Closed loop: so many clients, each sending its next request when it has its answer.

    python -m fourshot.bench.core.load < plan.json > rows.jsonl
"""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle

import msgspec

RETRY_S = 0.05  # a client of a closed loop that was told to come back does so after this


class Shot(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One request to send."""

    kind: str  # what the sender calls it; comes back in the row
    path: str
    body: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. Shots are drawn at random, with replacement, by their weights, or taken ``in_order``."""

    url: str
    shots: tuple[Shot, ...]
    weights: tuple[float, ...]
    in_order: bool = False  # from the first on, each once before any is sent again
    once: bool = False  # in order, and no more when all were sent
    seconds: float
    rate: float = 0.0  # of an open loop, requests per second; 0: a closed loop
    clients: int = 1  # of a closed loop
    seed: int = 0
    timeout_s: float = 120.0
    headers: dict[str, str] = {}


class Row(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What became of one request; seconds since the plan began."""

    shot: int  # index into the plan's shots
    due_s: float  # when it was meant to be sent
    sent_s: float
    done_s: float
    status: int  # 0: the connection failed
    answer: str

    @property
    def latency_s(self) -> float:
        return self.done_s - self.due_s


def arrivals(plan: Plan) -> Iterator[tuple[float, int]]:
    """When, in seconds, and which shot, for an open loop."""
    draw = random.Random(plan.seed)
    chosen = choices(plan, draw)
    at = draw.expovariate(plan.rate)
    while at < plan.seconds:
        yield at, next(chosen)
        at += draw.expovariate(plan.rate)


def choices(plan: Plan, draw: random.Random) -> Iterator[int]:
    """Which shots: without end, but for those that are sent once."""
    if plan.once:
        yield from range(len(plan.shots))
        return
    if plan.in_order:
        yield from cycle(range(len(plan.shots)))
    while True:
        yield draw.choices(range(len(plan.shots)), plan.weights)[0]


async def fire(plan: Plan) -> list[Row]:
    """Send everything and wait for all answers."""
    import aiohttp

    rows: list[Row] = []
    timeout = aiohttp.ClientTimeout(total=plan.timeout_s)
    headers = {"Content-Type": "application/json", **plan.headers}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(plan.url, timeout=timeout, headers=headers, connector=connector) as session:
        began = time.perf_counter()
        shared = choices(plan, random.Random()) if plan.in_order or plan.once else None

        async def send(shot: int, due_s: float) -> int:
            sent_s = time.perf_counter() - began
            try:
                one = plan.shots[shot]
                async with session.post(one.path, data=one.body.encode("utf-8", "surrogateescape")) as answer:
                    status, text = answer.status, await answer.text()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                status, text = 0, f"{type(error).__name__}: {error}"
            rows.append(
                Row(
                    shot=shot,
                    due_s=due_s,
                    sent_s=sent_s,
                    done_s=time.perf_counter() - began,
                    status=status,
                    answer=text,
                )
            )
            return status

        async def client(number: int) -> None:
            chosen = shared or choices(plan, random.Random(f"{plan.seed}-{number}"))
            for shot in chosen:
                if (now := time.perf_counter() - began) >= plan.seconds:
                    return
                if await send(shot, now) in (0, 429, 503):
                    await asyncio.sleep(RETRY_S)

        if plan.rate:
            sending = []
            for due_s, shot in arrivals(plan):
                if (wait_s := due_s - (time.perf_counter() - began)) > 0:
                    await asyncio.sleep(wait_s)
                sending.append(asyncio.create_task(send(shot, due_s)))
            await asyncio.gather(*sending)
        else:
            await asyncio.gather(*(client(number) for number in range(plan.clients)))
    return rows


def generate(plan: Plan, cores: str = "") -> list[Row]:
    """Run ``plan`` in a process of its own, on ``cores`` (as taskset names them) where given."""
    command = [*(["taskset", "-c", cores] if cores else []), sys.executable, "-m", "fourshot.bench.core.load"]
    done = subprocess.run(command, input=msgspec.json.encode(plan), stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=list[Row])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``values`` do not exceed. Raises ValueError for no values."""
    if not values:
        raise ValueError("a percentile of nothing")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(fire(plan))))


if __name__ == "__main__":
    main()

"""The queue in front of the engine: which text is computed next, and which is rejected because of too much work ahead.

vLLM takes requests in their order and skips those whose adapter finds no free slot in the batch. With more adapters in
demand than slots, that order swaps adapters all the time. So requests wait outside the engine. Those whose adapter is
in a slot go first; the text next in line is delayed by ``max_wait_s`` at most.

The engine gets ``WINDOW_S`` of work at a time: the batch that it computes, and the next. It would take more. But a
batch of 4,096 tokens occupies two CPU cores for two seconds without any response, and is no cheaper per token than one
of 300. A request of many texts does not block the others: its texts become due one after the other, as fast as the
model could process them, and requests that arrive meanwhile are served in between.

A *client*, a key or an address, does not block the others with many requests either. The next turn is the client's that
was given the fewest tokens so far; a new one starts at the level of the others.
Source: start-time fair queueing, Goyal, Vin & Cheng 1996.

The queue is limited by time: a text is refused while the work ahead of it takes longer than ``max_queue_s`` at the
model's recent rate. Work of other clients counts as ahead only as far as they were given less.
"""

import asyncio
import heapq
import math
import time
from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Callable
from itertools import count

from fourshot.serving.answers import RefusalError

BASE = ""  # the adapter of work without one: it needs no slot
WINDOW_S = 0.2
LEAST_WINDOW_TOKENS = 256  # always let in, so that the rate continues to be measured, however low it was
MEMORY_S = 5.0  # busy time after which a measurement counts for a third
USUAL_TOKENS = 64  # of a text whose tokens were not counted yet
MOST_WAITING = 1 << 16  # texts, of all clients: limits memory, not time
MOST_CLIENTS = 1 << 12  # that are remembered


class _Waiting:
    __slots__ = ("adapter", "client", "due", "is_queued", "overtaken_at", "ready", "tokens", "turned_due")

    def __init__(self, client: str, adapter: str, tokens: int, due: float) -> None:
        self.client, self.adapter, self.tokens, self.due = client, adapter, tokens, due
        self.is_queued = True
        self.turned_due = False  # counted among its client's due tokens
        self.overtaken_at = math.inf  # when it was first delayed by work whose adapter was in a slot
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Dispatcher:
    """The queue in front of the engine. All methods are called on one event loop."""

    def __init__(
        self,
        *,
        slots: int,
        window_tokens: int,
        least_window_tokens: int = LEAST_WINDOW_TOKENS,
        max_wait_s: float,
        max_queue_s: float,
        tokens_per_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``window_tokens``: most in the engine at once; ``least_window_tokens``: always allowed, however slow it is.

        ``tokens_per_s``: first guess of the rate (0: none).
        """
        self._slots, self._max_wait_s, self._max_queue_s = slots, max_wait_s, max_queue_s
        self._clock, self._most_tokens, self._least_tokens = clock, window_tokens, least_window_tokens
        self._waiting: dict[tuple[str, str], list[_Waiting]] = {}  # by client and adapter, each in order of due time
        self._later: list[tuple[float, int, _Waiting]] = []  # a heap of what was not due on arrival
        self._numbers = count()
        self._due_tokens: Counter[str] = Counter()  # by client: of waiting work that is due
        self._later_tokens: Counter[str] = Counter()  # by client: of waiting work that is not due yet
        self._last_due: dict[str, float] = {}  # by client: when all of that will be due
        self._texts: Counter[str] = Counter()  # by client: all that wait
        self._given_tokens: dict[str, int] = {}  # by client: tokens given so far, if more than `_level`
        # Where a new client starts: what the last client served had been given before, or what a forgotten one had.
        self._level = 0
        self._recent: OrderedDict[str, None] = OrderedDict()  # adapters, the last used last: what the slots hold
        self.num_waiting = self._running_tokens = 0  # texts; tokens
        self._done_tokens, self._busy_s = tokens_per_s, 1.0 if tokens_per_s else 0.0  # both decay
        self._measured = 0.0  # when the busy time was last counted

    @property
    def tokens_per_s(self) -> float:
        """The model's recent rate while it had work; 0 if unknown."""
        return max(1.0, self._done_tokens / self._busy_s) if self._busy_s else 0.0  # less is a stall

    @property
    def _window(self) -> int:
        if not self._busy_s:
            return self._most_tokens
        return min(self._most_tokens, max(self._least_tokens, int(self.tokens_per_s * WINDOW_S)))

    def check(self, client: str = "", tokens: int = 0, within_s: float = math.inf) -> None:
        """Raise `RefusalError` if new work would wait too long, with the time that the work ahead will take.

        ``tokens``: of the complete request, 0 if not known yet. ``within_s``: seconds in which it must be answered.
        With little work ahead, nothing is refused: the rate may have been measured at a bad moment.
        """
        self._turn_due()
        rate = self.tokens_per_s or math.inf
        ahead, work_s = self._ahead(client, tokens or USUAL_TOKENS), tokens / rate
        wait_s = ahead / rate
        if self.num_waiting >= MOST_WAITING and self._texts[client] * len(self._texts) >= self.num_waiting:
            raise RefusalError(429, "overloaded", f"Too busy: {self.num_waiting:,} texts wait.", max(1.0, wait_s))
        if ahead <= self._least_tokens:
            return
        if wait_s > self._max_queue_s:
            raise RefusalError(
                429, "overloaded", f"Too busy: {wait_s:.1f} s of work are ahead of this request.", wait_s
            )
        done_s = self._ahead(client, tokens, work_s) / rate + work_s
        if done_s > within_s:
            raise RefusalError(
                429,
                "deadline",
                f"This request cannot be answered within {within_s:g} s: it takes {work_s:.1f} s itself, and "
                f"{done_s - work_s:.1f} s of other work come before its end. Allow more time, send fewer texts at "
                "once, or try again later.",
                done_s - within_s,
            )

    def _ahead(self, client: str, tokens: int, in_s: float = 0.0) -> float:
        """Return how many tokens are computed before the end of new work, which is ``tokens`` tokens of ``client``.

        They are running now, or waiting and due ``in_s`` seconds from now at the latest.
        """
        own_tokens = self._soon(client, in_s)
        reach = self._given_to(client) + own_tokens + tokens
        clients = self._due_tokens.keys() | self._later_tokens.keys()
        return (
            self._running_tokens
            + own_tokens
            + sum(min(self._soon(rival, in_s), max(0, reach - self._given_to(rival))) for rival in clients - {client})
        )

    def _soon(self, client: str, in_s: float) -> float:
        """Return the waiting tokens of ``client`` that are due, or expected to be in ``in_s`` seconds."""
        due, later = self._due_tokens[client], self._later_tokens[client]
        if not later or not in_s:
            return due
        return due + later * min(1.0, in_s / max(in_s, self._last_due[client] - self._clock()))

    def _given_to(self, client: str) -> int:
        return max(self._given_tokens.get(client, 0), self._level)

    def _turn_due(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            work = heapq.heappop(self._later)[2]
            if not work.ready.done():
                work.turned_due = True
                self._due_tokens[work.client] += work.tokens
                _subtract(self._later_tokens, work.client, work.tokens)

    def close(self, refusal: RefusalError) -> None:
        """Make every waiting `turn` raise ``refusal``."""
        for work in [work for queue in self._waiting.values() for work in queue]:
            self._take(work)
            if not work.ready.done():  # else it is cancelled, and its task has not run since
                work.ready.set_exception(refusal)

    async def turn(self, adapter: str, tokens: int, after_tokens: int = 0, client: str = "") -> None:
        """Wait until work of ``tokens`` tokens with ``adapter`` may be sent to the engine; then `done` must follow.

        ``after_tokens``: how many tokens of the same request come before these. Raises what `close` was given.
        """
        rate = self.tokens_per_s
        work = _Waiting(client, adapter, tokens, self._clock() + (after_tokens / rate if rate else 0.0))
        insort(self._waiting.setdefault((client, adapter), []), work, key=lambda waiting: waiting.due)
        heapq.heappush(self._later, (work.due, next(self._numbers), work))
        self.num_waiting += 1
        self._texts[client] += 1
        self._later_tokens[client] += tokens
        self._last_due[client] = max(work.due, self._last_due.get(client, 0.0))
        self._fill()
        try:
            await work.ready
        except asyncio.CancelledError:
            if work.is_queued:
                self._take(work)
            elif not work.ready.cancelled() and not work.ready.exception():  # its turn came just as it was cancelled
                self.done(tokens, is_computed=False)
            raise

    def done(self, tokens: int, *, is_computed: bool = True) -> None:
        """Report that work of ``tokens`` tokens, whose `turn` came, has been computed or given up.

        What is given up adds no tokens to the rate, only time if there is other work. Else every missed deadline would
        make the model look faster, more work would be accepted, and more deadlines would be missed.
        """
        self._running_tokens -= tokens
        if not self._running_tokens and not self.num_waiting:  # nothing waits or runs: all clients start anew
            self._given_tokens, self._level = {}, 0
        if is_computed or (self.num_waiting and self._busy_s):
            spent = (now := self._clock()) - self._measured
            fading = math.exp(-spent / MEMORY_S)
            lasting_s = MEMORY_S * (1 - fading)  # the part of the time just spent that has not decayed yet
            self._busy_s = self._busy_s * fading + lasting_s
            computed = tokens * (lasting_s / spent if spent else 1.0) if is_computed else 0.0
            self._done_tokens = self._done_tokens * fading + computed
            self._measured = now
        self._fill()

    def _fill(self) -> None:
        self._turn_due()
        while self.num_waiting:
            work = self._next()
            if work.ready.done():  # cancelled with what has just ended; its task has not run since
                self._take(work)
                continue
            if self._running_tokens and self._running_tokens + work.tokens > self._window:
                return
            self._take(work)
            self._give(work)
            if not self._running_tokens:
                self._measured = self._clock()
            self._running_tokens += work.tokens
            if work.adapter != BASE:
                self._recent[work.adapter] = None
                self._recent.move_to_end(work.adapter)
                while len(self._recent) > self._slots:
                    self._recent.popitem(last=False)
            work.ready.set_result(None)

    def _give(self, work: _Waiting) -> None:
        tokens_before = self._given_to(work.client)
        self._level = max(self._level, tokens_before)
        self._given_tokens[work.client] = tokens_before + work.tokens
        if len(self._given_tokens) > MOST_CLIENTS:
            # Forget at least a quarter: clients with a single request never raise the level, and would all be kept.
            self._level = max(self._level, sorted(self._given_tokens.values())[MOST_CLIENTS // 4])
            self._given_tokens = {
                client: tokens for client, tokens in self._given_tokens.items() if tokens > self._level
            }

    def _next(self) -> _Waiting:
        now = self._clock()

        def order(work: _Waiting) -> tuple[bool, int, float]:
            """Sort what is due first: what is not takes no turn from it."""
            return work.due > now, self._given_to(work.client), work.due

        heads = [queue[0] for queue in self._waiting.values()]
        first = min(heads, key=order)
        if now - first.overtaken_at >= self._max_wait_s:
            return first
        in_slots = [
            work
            for work in heads
            if (work.adapter == BASE or work.adapter in self._recent) and (work.due <= now or first.due > now)
        ]
        chosen = min(in_slots, key=order) if in_slots else first
        if chosen is not first:
            first.overtaken_at = min(first.overtaken_at, now)
        return chosen

    def _take(self, work: _Waiting) -> None:
        work.is_queued = False
        queue = self._waiting[work.client, work.adapter]
        queue.remove(work)
        if not queue:
            del self._waiting[work.client, work.adapter]
        self.num_waiting -= 1
        _subtract(self._texts, work.client, 1)
        _subtract(self._due_tokens if work.turned_due else self._later_tokens, work.client, work.tokens)
        if not self._texts[work.client]:
            del self._last_due[work.client]


def _subtract(counts: Counter[str], client: str, number: int) -> None:
    """Subtract ``number`` from the count of ``client``; a client at zero is forgotten."""
    counts[client] -= number
    if not counts[client]:
        del counts[client]

"""Who goes to the model next, and who is rejected because too much is ahead of it.

vLLM takes requests in their order and skips those whose adapter finds no free slot in the batch. With more adapters in
demand than slots, that order swaps adapters all the time. Here requests wait outside the engine. Those whose adapter is
in a slot go first; whose turn it is is passed over for ``max_wait_s`` at most.

The engine gets ``WINDOW_S`` of work at a time: one batch that it computes and the next. It would take more, but a
batch of 4,096 tokens occupies two CPU cores for two seconds, in which nobody is answered, and is no cheaper per token
than one of 300. A request of many texts does not stand in everybody's way: its texts are due one after the other, as
fast as the model could answer them, and whoever comes meanwhile goes between.

Whoever asks much does not stand in others' way either. The turn is that of the asker, a key or an address, that was
given the fewest tokens so far; who comes new starts where the others are.
Source: start-time fair queueing, Goyal, Vin & Cheng 1996.

What may wait is bounded by time: a text is refused while the work ahead of it takes longer than ``max_queue_s`` at the
rate the model was last seen to work at. Work of others is ahead of it only as far as they were given less.
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

BASE = ""  # key of work without an adapter: it needs no slot
WINDOW_S = 0.2
LEAST_WINDOW_TOKENS = 256  # always let in, so that the rate goes on being measured however low it was found to be
MEMORY_S = 5.0  # busy time after which a measurement counts for a third
USUAL_TOKENS = 64  # of a text whose tokens were not counted yet
MOST_WAITING = 1 << 16  # texts, of all askers: a bound on memory, not on time
MOST_ASKERS = 1 << 12  # that are remembered


class _Waiting:
    __slots__ = ("adapter", "asker", "due", "is_queued", "overtaken_at", "ready", "tokens", "turned_due")

    def __init__(self, asker: str, adapter: str, tokens: int, due: float) -> None:
        self.asker, self.adapter, self.tokens, self.due = asker, adapter, tokens, due
        self.is_queued = True
        self.turned_due = False  # counted among its asker's due tokens
        self.overtaken_at = math.inf  # when it was first passed over for work whose adapter was in a slot
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
        """At most ``window_tokens`` are in the engine at once, and ``least_window_tokens`` may be, however slow it is.

        ``tokens_per_s`` is a first guess (0: none).
        """
        self._slots, self._max_wait_s, self._max_queue_s = slots, max_wait_s, max_queue_s
        self._clock, self._most_tokens, self._least_tokens = clock, window_tokens, least_window_tokens
        self._waiting: dict[tuple[str, str], list[_Waiting]] = {}  # by asker and adapter, each in the order due
        self._later: list[tuple[float, int, _Waiting]] = []  # a heap of what was not due when it came
        self._numbers = count()
        self._due_tokens: Counter[str] = Counter()  # by asker: of what waits and is due
        self._later_tokens: Counter[str] = Counter()  # by asker: of what waits and is not
        self._last_due: dict[str, float] = {}  # by asker: when all of that will be
        self._texts: Counter[str] = Counter()  # by asker: all that wait
        self._given_tokens: dict[str, int] = {}  # by asker: tokens given so far, where that is more than `_level`
        # Where somebody new starts: at what whose turn it was last had been given before, or above those forgotten.
        self._level = 0
        self._recent: OrderedDict[str, None] = OrderedDict()  # adapters, the last used last: what the slots hold
        self.num_waiting = self._running_tokens = 0  # texts; tokens
        self._done_tokens, self._busy_s = tokens_per_s, 1.0 if tokens_per_s else 0.0  # both fade
        self._measured = 0.0  # when the busy time was last counted

    @property
    def tokens_per_s(self) -> float:
        """How fast the model was lately while it had work."""
        return self._done_tokens / self._busy_s if self._busy_s else 0.0

    @property
    def _window(self) -> int:
        if not self._busy_s:
            return self._most_tokens
        return min(self._most_tokens, max(self._least_tokens, int(self.tokens_per_s * WINDOW_S)))

    def check(self, asker: str = "", tokens: int = 0, within_s: float = math.inf) -> None:
        """Raise `RefusalError` where new work would wait too long, with the time that what is ahead will take.

        ``tokens`` are those of a whole request, 0 where they are not known yet; ``within_s``: seconds that it may
        take to be answered. With little ahead nothing is refused: the rate may have been measured in a bad moment.
        """
        self._turn_due()
        rate = self.tokens_per_s or math.inf
        ahead, work_s = self._ahead(asker, tokens or USUAL_TOKENS), tokens / rate
        wait_s = ahead / rate
        if self.num_waiting >= MOST_WAITING and self._texts[asker] * len(self._texts) >= self.num_waiting:
            raise RefusalError(429, "overloaded", f"Too busy: {self.num_waiting:,} texts wait.", max(1.0, wait_s))
        if ahead <= self._least_tokens:
            return
        if wait_s > self._max_queue_s:
            raise RefusalError(429, "overloaded", f"Too busy: {wait_s:.1f} s of work are ahead of this.", wait_s)
        done_s = self._ahead(asker, tokens, work_s) / rate + work_s
        if done_s > within_s:
            raise RefusalError(
                429,
                "deadline",
                f"This cannot be answered within {within_s:g} s: it takes {work_s:.1f} s itself, and "
                f"{done_s - work_s:.1f} s of other work go before its end. Allow more time, send fewer texts at once, "
                "or ask again later.",
                done_s - within_s,
            )

    def _ahead(self, asker: str, tokens: int, in_s: float = 0.0) -> float:
        """Of the tokens that run, or wait and will be due ``in_s`` from now: those that go before the end of new work.

        That work is ``tokens`` tokens of ``asker``.
        """
        own_tokens = self._soon(asker, in_s)
        reach = self._given_to(asker) + own_tokens + tokens
        askers = self._due_tokens.keys() | self._later_tokens.keys()
        return (
            self._running_tokens
            + own_tokens
            + sum(min(self._soon(rival, in_s), max(0, reach - self._given_to(rival))) for rival in askers - {asker})
        )

    def _soon(self, asker: str, in_s: float) -> float:
        """Tokens of ``asker`` that wait and will be due ``in_s`` from now."""
        due, later = self._due_tokens[asker], self._later_tokens[asker]
        if not later or not in_s:
            return due
        return due + later * min(1.0, in_s / max(in_s, self._last_due[asker] - self._clock()))

    def _given_to(self, asker: str) -> int:
        return max(self._given_tokens.get(asker, 0), self._level)

    def _turn_due(self) -> None:
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            work = heapq.heappop(self._later)[2]
            if not work.ready.done():
                work.turned_due = True
                self._due_tokens[work.asker] += work.tokens
                _subtract(self._later_tokens, work.asker, work.tokens)

    def close(self, refusal: RefusalError) -> None:
        """Give ``refusal`` to all that waits."""
        for work in [work for queue in self._waiting.values() for work in queue]:
            self._take(work)
            if not work.ready.done():  # given up, and its task was not told yet
                work.ready.set_exception(refusal)

    async def turn(self, adapter: str, tokens: int, after_tokens: int = 0, asker: str = "") -> None:
        """Wait until work of ``tokens`` tokens with ``adapter`` may go to the engine; then `done` must follow.

        ``after_tokens`` is how many tokens of the same request come before these. Raises what `close` was given.
        """
        rate = self.tokens_per_s
        work = _Waiting(asker, adapter, tokens, self._clock() + (after_tokens / rate if rate else 0.0))
        insort(self._waiting.setdefault((asker, adapter), []), work, key=lambda waiting: waiting.due)
        heapq.heappush(self._later, (work.due, next(self._numbers), work))
        self.num_waiting += 1
        self._texts[asker] += 1
        self._later_tokens[asker] += tokens
        self._last_due[asker] = max(work.due, self._last_due.get(asker, 0.0))
        self._fill()
        try:
            await work.ready
        except asyncio.CancelledError:
            if work.is_queued:
                self._take(work)
            elif not work.ready.cancelled() and not work.ready.exception():  # its turn came as it was given up
                self.done(tokens)
            raise

    def done(self, tokens: int) -> None:
        """Work whose `turn` came has been answered, or was given up."""
        self._running_tokens -= tokens
        if not self._running_tokens and not self.num_waiting:  # nobody waits for anybody: all start anew
            self._given_tokens, self._level = {}, 0
        now = self._clock()
        spent = now - self._measured
        fading = math.exp(-spent / MEMORY_S)
        lasting_s = MEMORY_S * (1 - fading)  # of the time just spent, what has not faded yet
        self._busy_s = self._busy_s * fading + lasting_s
        self._done_tokens = self._done_tokens * fading + tokens * (lasting_s / spent if spent else 1.0)
        self._measured = now
        self._fill()

    def _fill(self) -> None:
        self._turn_due()
        while self.num_waiting:
            work = self._next()
            if work.ready.done():  # given up together with what has just ended, and its task was not told yet
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
        tokens_before = self._given_to(work.asker)
        self._level = max(self._level, tokens_before)
        self._given_tokens[work.asker] = tokens_before + work.tokens
        if len(self._given_tokens) > MOST_ASKERS:
            # A quarter at least goes: of those who ask once, none is ever above the level, and each would be kept.
            self._level = max(self._level, sorted(self._given_tokens.values())[MOST_ASKERS // 4])
            self._given_tokens = {asker: tokens for asker, tokens in self._given_tokens.items() if tokens > self._level}

    def _next(self) -> _Waiting:
        now = self._clock()

        def order(work: _Waiting) -> tuple[bool, int, float]:
            """What is not due yet takes no turn from what is."""
            return work.due > now, self._given_to(work.asker), work.due

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
        queue = self._waiting[work.asker, work.adapter]
        queue.remove(work)
        if not queue:
            del self._waiting[work.asker, work.adapter]
        self.num_waiting -= 1
        _subtract(self._texts, work.asker, 1)
        _subtract(self._due_tokens if work.turned_due else self._later_tokens, work.asker, work.tokens)
        if not self._texts[work.asker]:
            del self._last_due[work.asker]


def _subtract(counts: Counter[str], asker: str, number: int) -> None:
    """Whoever has nothing left is forgotten."""
    counts[asker] -= number
    if not counts[asker]:
        del counts[asker]

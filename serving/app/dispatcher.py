"""Who goes to the model next, and who is rejected because too much waits already.

vLLM takes requests in their order and skips those whose adapter finds no free slot in the batch. With more adapters in
demand than slots, that order swaps adapters all the time. Here requests wait outside the engine. Those whose adapter is
in a slot go first; none is passed over for longer than ``max_wait_s``.

The engine gets ``WINDOW_S`` of work at a time: one batch that it computes and the next. It would take more, but a
batch of 4,096 tokens occupies two CPU cores for two seconds, in which nobody is answered, and is no cheaper per token
than one of 300. A request of many texts does not stand in everybody's way: its texts are due one after the other, as
fast as the model could answer them, and whoever comes meanwhile goes between.

What may wait is bounded by time, too: a text is refused while the work that is due before it takes longer than
``max_queue_s`` at the rate the model was last seen to work at. Whoever is accepted is answered soon, under any load.
"""

import asyncio
import math
import time
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable

from fourshot.serving.answers import RefusalError

BASE = ""  # key of work without an adapter: it needs no slot
WINDOW_S = 0.2
LEAST_WINDOW_TOKENS = 256  # always let in, so that the rate goes on being measured however low it was found to be
MEMORY_S = 5.0  # busy time after which a measurement counts for a third


class _Waiting:
    __slots__ = ("adapter", "due", "ready", "tokens")

    def __init__(self, adapter: str, tokens: int, due: float) -> None:
        self.adapter, self.tokens, self.due = adapter, tokens, due
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Dispatcher:
    """The queue in front of the engine. All methods are called on one event loop."""

    def __init__(
        self,
        *,
        slots: int,
        window_tokens: int,
        max_wait_s: float,
        max_queue_s: float,
        tokens_per_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """At most ``window_tokens`` are in the engine at once; ``tokens_per_s`` is a first guess (0: none)."""
        self._slots, self._most, self._max_wait_s, self._max_queue_s = slots, window_tokens, max_wait_s, max_queue_s
        self._clock = clock
        self._waiting: dict[str, list[_Waiting]] = {}  # by adapter, each in the order in which they are due
        self._recent: OrderedDict[str, None] = OrderedDict()  # adapters, the last used last: what the slots hold
        self._num_waiting = self._running_tokens = 0
        self._done_tokens, self._busy_s = tokens_per_s, 1.0 if tokens_per_s else 0.0  # both fade
        self._measured = 0.0  # when the busy time was last counted

    @property
    def tokens_per_s(self) -> float:
        """How fast the model was lately while it had work."""
        return self._done_tokens / self._busy_s if self._busy_s else 0.0

    @property
    def _window(self) -> int:
        if not self._busy_s:
            return self._most
        return min(self._most, max(LEAST_WINDOW_TOKENS, int(self.tokens_per_s * WINDOW_S)))

    @property
    def num_waiting(self) -> int:
        return self._num_waiting

    def check(self) -> None:
        """Raise `RefusalError` where new work would wait too long, with the time that what waits will take."""
        now, ahead = self._clock(), self._running_tokens
        for queue in self._waiting.values():
            for work in queue:
                if work.due > now:
                    break
                ahead += work.tokens
        rate = self.tokens_per_s
        if rate and ahead > LEAST_WINDOW_TOKENS and ahead / rate > self._max_queue_s:
            wait_s = ahead / rate
            raise RefusalError(429, "overloaded", f"Too busy: the model has {wait_s:.1f} s of work waiting.", wait_s)

    async def turn(self, adapter: str, tokens: int, after_tokens: int = 0) -> None:
        """Wait until work of ``tokens`` tokens with ``adapter`` may go to the engine; then `done` must follow.

        ``after_tokens`` is how many tokens of the same request come before these.
        """
        rate = self.tokens_per_s
        work = _Waiting(adapter, tokens, self._clock() + (after_tokens / rate if rate else 0.0))
        insort(self._waiting.setdefault(adapter, []), work, key=lambda waiting: waiting.due)
        self._num_waiting += 1
        self._fill()
        try:
            await work.ready
        except asyncio.CancelledError:
            if work.ready.done() and not work.ready.cancelled():  # its turn came as it was given up
                self.done(tokens)
            else:
                self._take(work)
            raise

    def done(self, tokens: int) -> None:
        """Work whose `turn` came has been answered, or was given up."""
        self._running_tokens -= tokens
        now = self._clock()
        spent = now - self._measured
        fading = math.exp(-spent / MEMORY_S)
        lasting_s = MEMORY_S * (1 - fading)  # of the time just spent, what has not faded yet
        self._busy_s = self._busy_s * fading + lasting_s
        self._done_tokens = self._done_tokens * fading + tokens * (lasting_s / spent if spent else 1.0)
        self._measured = now
        self._fill()

    def _fill(self) -> None:
        while self._num_waiting:
            work = self._next()
            if self._running_tokens and self._running_tokens + work.tokens > self._window:
                return
            self._take(work)
            if not self._running_tokens:
                self._measured = self._clock()
            self._running_tokens += work.tokens
            if work.adapter != BASE:
                self._recent[work.adapter] = None
                self._recent.move_to_end(work.adapter)
                while len(self._recent) > self._slots:
                    self._recent.popitem(last=False)
            work.ready.set_result(None)

    def _next(self) -> _Waiting:
        heads = [queue[0] for queue in self._waiting.values()]
        first = min(heads, key=lambda work: work.due)
        now = self._clock()
        if now - first.due >= self._max_wait_s:
            return first
        # What is not due yet takes no turn from what is.
        held = [
            work
            for work in heads
            if (work.adapter == BASE or work.adapter in self._recent) and (work.due <= now or first.due > now)
        ]
        return min(held, key=lambda work: work.due) if held else first

    def _take(self, work: _Waiting) -> None:
        queue = self._waiting[work.adapter]
        queue.remove(work)
        if not queue:
            del self._waiting[work.adapter]
        self._num_waiting -= 1

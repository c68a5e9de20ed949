"""What a piece of work may still send: a limit holds over all of its calls, and includes requests in flight."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fourshot.engine.errors import SpendingLimitError
from fourshot.serving.clients.remote.completions import CompletionResponse, FailedAnswerError, StrangeAnswerError
from fourshot.serving.clients.remote.kept import TokensSpent
from fourshot.serving.clients.remote.settings import RemoteSettings

CHARS_A_TOKEN = 3.0  # assumed until the endpoint reports fewer: few, since a limit must hold from the beginning


class Budget:
    """The budget of one piece of work."""

    def __init__(self, settings: RemoteSettings, spent: TokensSpent) -> None:
        """``spent``: by the same work in earlier calls."""
        self._settings, self._spent = settings, spent
        self._failed = 0  # requests of this call without a result
        self._unread_cost = 0.0  # at most, of those that may have been charged all the same
        self._under_way: list[float] = []  # the most that each request in flight may cost
        self._tokens_a_char = 1 / CHARS_A_TOKEN
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def room(self, chars: int, most_tokens: int) -> AsyncIterator[None]:
        """Wait until a request of ``chars`` characters for up to ``most_tokens`` may be sent; inside, it is in flight.

        Raises SpendingLimitError if it may not be sent even when none is in flight any more.
        """
        max_cost = self._settings.cost(chars * self._tokens_a_char, most_tokens) or 0.0
        async with self._changed:
            await self._changed.wait_for(lambda: not self._under_way or self._fits(max_cost))
            if not self._fits(max_cost):
                raise SpendingLimitError(self.describe())
            self._under_way.append(max_cost)
        try:
            yield
        except BaseException as error:
            self._failed += 1
            if isinstance(error, TimeoutError | StrangeAnswerError) and not isinstance(error, FailedAnswerError):
                self._unread_cost += max_cost
            raise
        finally:
            async with self._changed:
                self._under_way.remove(max_cost)
                self._changed.notify_all()

    def record(self, completion: CompletionResponse, chars: int) -> None:
        self._spent = self._spent.plus(completion)
        self._tokens_a_char = max(self._tokens_a_char, completion.prompt_tokens / max(1, chars))

    def _fits(self, cost: float) -> bool:
        limits, spent = self._settings, self._spent
        num_requests = spent.requests + self._failed + len(self._under_way)
        paid = (limits.cost(spent.prompt_tokens, spent.output_tokens) or 0.0) + self._unread_cost
        return (limits.max_requests is None or num_requests < limits.max_requests) and (
            limits.max_cost is None or paid + sum(self._under_way) + cost <= limits.max_cost
        )

    def describe(self) -> str:
        """Return which limit is reached, with the counts."""
        spent, limits = self._spent, self._settings
        cost = limits.cost(spent.prompt_tokens, spent.output_tokens)
        counts = f"{spent.requests:,} requests were answered, {self._failed:,} failed"
        counts += f" for {self._unread_cost:.4g} at most" if self._unread_cost else ""
        if limits.max_requests is not None and spent.requests + self._failed >= limits.max_requests:
            return f"--max-requests {limits.max_requests} is reached: {counts}."
        return f"--max-cost {limits.max_cost:g} is reached: {counts}; {cost:.4g} is spent, and the next may exceed it."

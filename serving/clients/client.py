"""Clients of `fourshot serve`. They return the types of `serving.api`.

    with Client("http://127.0.0.1:8000") as client:
        client.classify("sst2", "a fine film").results[0].label
        client.predict("sst2", texts)  # any number of them

`Client` blocks, `AsyncClient` awaits; requests, parsing and retries are in `calls`. Importing this module loads no
model library.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Self, Unpack

import httpx
import tenacity

from fourshot.engine.errors import InputError
from fourshot.pipeline.arguments import checked, checked_but
from fourshot.pipeline.rows.fields import Given
from fourshot.pipeline.selective import Refusal, Refusing
from fourshot.pipeline.text_student import TextWritten
from fourshot.serving.api import ClassifyResponse, Method, TaskList
from fourshot.serving.clients.calls import (
    BATCH,
    BUSY,
    WRITTEN_BATCH,
    Answer,
    ApiCall,
    as_service_error,
    classify_call,
    generate_calls,
    http_options,
    predict_calls,
    predictions,
    read,
    retry_policy,
    tasks_call,
    written,
)
from fourshot.serving.clients.local import Prediction
from fourshot.serving.concurrency import all_or_none

URL = "http://127.0.0.1:8000"
TIMEOUT_S = 60.0
RETRIES = 4
CONCURRENCY = 8
HEALTH = "/health"


class Client:
    """Blocking client of a service. Threads may share it. A context manager: leaving it closes the connections.

    All methods but `healthy` raise `ServiceError` if the service does not respond, or if an error remains after all
    retries. They raise `RequestError`, which is also an InputError, if the request is wrong.
    """

    @checked
    def __init__(
        self,
        url: str | httpx.URL = URL,
        key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``url`` is the service's address; ``key`` None takes the environment's FOURSHOT_API_KEY, if it is set.

        ``timeout_s`` is how long one attempt may be silent. A request is retried up to ``retries`` times if the
        connection fails or the status is 408, 429, 502, 503 or 504. ``sleep`` waits before that: as many seconds as the
        service names, 30 at most, or else pauses that double from 0.25 s to 8 s.
        Raises InputError for an invalid address, key or number.
        """
        self.url = url
        self._retries, self._sleep = retries, sleep
        self._called, options = http_options(url, key, timeout_s, retries, httpx.HTTPTransport)
        self._http = httpx.Client(**options)

    @checked_but("texts")
    def classify(
        self, task: str, texts: Given | Sequence[Given], method: Method | None = None, **refusing: Unpack[Refusing]
    ) -> ClassifyResponse:
        """Return the service's response to one request: one result per text, in their order.

        ``method`` None leaves the choice to the service. ``refusing`` as for `LocalClassifier.predict`. For more texts
        than one request may have, use `predict`.
        """
        return self._ask(classify_call(task, texts, method, Refusal(**refusing)))

    @checked_but("texts")
    def predict(
        self,
        task: str,
        texts: Sequence[Given],
        method: Method | None = None,
        *,
        batch: int = BATCH,
        **refusing: Unpack[Refusing],
    ) -> list[Prediction]:
        """Return one prediction per text, in their order; ``batch`` texts per request, one request after another.

        Raises InputError for a blank text, before anything is sent.
        """
        calls = predict_calls(task, texts, method, Refusal(**refusing), batch)
        return predictions([self._ask(call) for call in calls])

    @checked_but("inputs")
    def generate(self, task: str, inputs: Sequence[str], *, batch: int = WRITTEN_BATCH) -> list[TextWritten]:
        """Return a text for each input of a text generation task, in their order; ``batch`` inputs per request.

        Raises InputError for a blank input, before anything is sent.
        """
        return written([self._ask(call) for call in generate_calls(task, inputs, batch)])

    @checked
    def tasks(self, everything: bool = False) -> TaskList:
        """Return the served tasks; with ``everything``, also what is rejected, with the reasons."""
        return self._ask(tasks_call(everything))

    def healthy(self) -> bool:
        """Return whether the service is up, without retries. Raises nothing if it is not."""
        try:
            return self._http.get(HEALTH).is_success
        except httpx.RequestError:
            return False

    def _ask(self, call: ApiCall[Answer]) -> Answer:
        retrying = tenacity.Retrying(sleep=self._sleep, **retry_policy(self._retries))
        with as_service_error(retrying, self._called):
            response = retrying(self._http.request, **call.request())
        return read(call, response, retrying, self._called)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """`Client` for one event loop: the same methods, awaited; `predict` and `generate` send requests concurrently."""

    @checked
    def __init__(
        self,
        url: str | httpx.URL = URL,
        key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """As `Client`."""
        self.url = url
        self._retries, self._sleep = retries, sleep
        self._called, options = http_options(url, key, timeout_s, retries, httpx.AsyncHTTPTransport)
        self._http = httpx.AsyncClient(**options)

    @checked_but("texts")
    async def classify(
        self, task: str, texts: Given | Sequence[Given], method: Method | None = None, **refusing: Unpack[Refusing]
    ) -> ClassifyResponse:
        """As `Client.classify`."""
        return await self._ask(classify_call(task, texts, method, Refusal(**refusing)))

    @checked_but("texts")
    async def predict(
        self,
        task: str,
        texts: Sequence[Given],
        method: Method | None = None,
        *,
        batch: int = BATCH,
        concurrency: int = CONCURRENCY,
        **refusing: Unpack[Refusing],
    ) -> list[Prediction]:
        """As `Client.predict`, with up to ``concurrency`` concurrent requests, fewer while the service is busy.

        If one fails for good, the others are cancelled and its error is raised.
        """
        calls = predict_calls(task, texts, method, Refusal(**refusing), batch)
        return predictions(await self._ask_all(calls, concurrency))

    @checked_but("inputs")
    async def generate(
        self, task: str, inputs: Sequence[str], *, batch: int = WRITTEN_BATCH, concurrency: int = CONCURRENCY
    ) -> list[TextWritten]:
        """As `Client.generate`, with concurrent requests as in `predict`."""
        return written(await self._ask_all(generate_calls(task, inputs, batch), concurrency))

    async def _ask_all(self, calls: Sequence[ApiCall[Answer]], concurrency: int) -> list[Answer]:
        if concurrency < 1:
            raise InputError(f"concurrency is {concurrency}; at least 1 request must be in progress.")
        pace = Pace(concurrency)
        return await all_or_none(self._ask(call, pace) for call in calls)

    @checked
    async def tasks(self, everything: bool = False) -> TaskList:
        """As `Client.tasks`."""
        return await self._ask(tasks_call(everything))

    async def healthy(self) -> bool:
        """As `Client.healthy`."""
        try:
            return (await self._http.get(HEALTH)).is_success
        except httpx.RequestError:
            return False

    async def _ask(self, call: ApiCall[Answer], pace: "Pace | None" = None) -> Answer:
        pace = pace or Pace(1)

        async def send() -> httpx.Response:
            async with pace.turn():
                response = await self._http.request(**call.request())
                pace.learn(busy=response.status_code == BUSY)
                return response

        retrying = tenacity.AsyncRetrying(sleep=self._sleep, **retry_policy(self._retries))
        with as_service_error(retrying, self._called):
            response: httpx.Response = await retrying(send)
        return read(call, response, retrying, self._called)

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Pace:
    """Limits how many requests of one list are in flight.

    The service rejects what would wait long, and a list's own requests are each other's load. Sent all at once again
    and again, the last of them would use up their attempts. So a rejection halves the limit, and ``SURE`` accepted
    requests in a row add one.
    """

    SURE = 8

    def __init__(self, limit: int) -> None:
        self._limit = self._now = limit
        self._sending = self._answers = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until one more request may be sent; inside, it counts as in flight."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._sending < self._now)
            self._sending += 1
        try:
            yield
        finally:
            async with self._changed:
                self._sending -= 1
                self._changed.notify_all()

    def learn(self, busy: bool) -> None:
        """Adapt the limit to a response; ``busy``: the service was too busy for the request."""
        if busy:
            self._now, self._answers = max(1, self._now // 2), 0
            return
        self._answers += 1
        if self._answers >= self.SURE:
            self._now, self._answers = min(self._limit, self._now + 1), 0

"""ASGI helpers for an app without a framework."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from fourshot.serving.answers import send_refusal, stopping


async def while_there(receive: Any, send: Any, answer: Callable[[Any], Awaitable[None]]) -> None:
    """Run ``answer``, which gets a ``send``, and cancel it if the client leaves: its replica need not continue."""
    is_over = False

    async def pass_on(message: dict[str, Any]) -> None:
        nonlocal is_over
        is_over = message["type"] == "http.response.body" and not message.get("more_body")
        await send(message)

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    answering, leaving = asyncio.ensure_future(answer(pass_on)), asyncio.create_task(until_gone())
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not (is_over or answering.done()):
            answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering
    finally:
        answering.cancel()
        leaving.cancel()


class Drain:
    """Requests in flight, and how they end in a shutdown."""

    def __init__(self) -> None:
        self._answering: set[asyncio.Future[None]] = set()
        self.stopping = self._is_over = False

    async def answer(self, answer: Callable[[Any], Awaitable[None]], send: Any) -> None:
        """Run ``answer``, which gets a ``send``. Refuse the request if `run` cancels it before its response begins."""
        has_begun = False

        async def pass_on(message: dict[str, Any]) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        answering = asyncio.ensure_future(answer(pass_on))
        self._answering.add(answering)
        answering.add_done_callback(self._answering.discard)
        try:
            await answering
        except asyncio.CancelledError:
            if has_begun or not self._is_over:
                raise
            await send_refusal(send, stopping())

    async def run(self, seconds: float) -> None:
        """Wait at most ``seconds`` for the accepted requests, then refuse the rest, with a time to retry after."""
        self.stopping = True
        if self._answering:
            await asyncio.wait(self._answering, timeout=seconds)
        self._is_over = True
        for answering in self._answering:
            answering.cancel()
        await asyncio.sleep(0.1)  # so that the last responses are sent


async def lifespan(receive: Any, send: Any) -> None:
    """Confirm the server's messages about its start and its end; there is nothing to do for either."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return

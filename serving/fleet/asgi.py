"""ASGI, as an app without a framework needs it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any


async def while_there(receive: Any, send: Any, answer: Callable[[Any], Awaitable[None]]) -> None:
    """Have ``answer`` send what it has to, and give it up where the client leaves: a replica need not go on."""
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


async def lifespan(receive: Any, send: Any) -> None:
    """Answer the server's messages of its start and its end; there is nothing to do for either."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return

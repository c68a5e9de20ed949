"""Several requests on their way at once. Importing this module loads the standard library alone."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

Answer = TypeVar("Answer")


async def all_or_none(asking: Iterable[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """What each comes to, in their order.

    Where one fails, or the caller leaves, the others are cancelled and have ended when this returns. Raises what the
    first that failed raised.
    """
    tasks = [*map(asyncio.ensure_future, asking)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""Several requests on their way at once, and threads. Importing this module loads the standard library alone."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
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


def without_panics(work: Callable[..., Answer], *given: Any) -> Answer:
    """What ``work`` returns, in a thread. Raises RuntimeError where a library in Rust panics.

    To Python that is no Exception: whoever waits for the thread would not expect it, and end.
    """
    try:
        return work(*given)
    except Exception:
        raise
    except BaseException as panic:
        raise RuntimeError(f"a library has failed: {panic}") from panic

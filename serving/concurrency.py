"""Helpers for concurrent coroutines and for threads. Importing this module loads only the standard library."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

Answer = TypeVar("Answer")


async def all_or_none(asking: Iterable[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """Await all of ``asking`` concurrently, and return their results in order.

    If one fails, or the caller is cancelled, the others are cancelled and have ended when this returns. Raises the
    exception of the first one that failed.
    """
    tasks = [*map(asyncio.ensure_future, asking)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def without_panics(work: Callable[..., Answer], *given: Any) -> Answer:
    """Return ``work(*given)``; for functions that run in a thread. Raises RuntimeError if a Rust library panics.

    In Python, a panic is a BaseException but no Exception. Code that waits for the thread does not expect one, and
    would end.
    """
    try:
        return work(*given)
    except Exception:
        raise
    except BaseException as panic:
        raise RuntimeError(f"a library has failed: {panic}") from panic

"""Polls for a state of another process or task of which a test is not notified."""

import asyncio
import time
from collections.abc import Callable

INTERVAL_S = 0.01


def wait_for(condition: Callable[[], object], event: str, patience_s: float = 60) -> None:
    """Return once ``condition()`` holds. Fails after ``patience_s`` with ``event``, which describes the condition."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience_s:g} s for {event}"
        time.sleep(INTERVAL_S)


async def until(condition: Callable[[], object], patience_s: float = 30) -> None:
    """Wait like `wait_for`, while other tasks run. Raises TimeoutError after ``patience_s``."""
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(INTERVAL_S)

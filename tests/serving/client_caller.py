"""Both clients behind a common interface."""

import asyncio
from typing import Any

from fourshot import AsyncClient, Client


class ClientCaller:
    """Calls methods of one of the clients, and records in ``slept`` how long it would have slept."""

    def __init__(self, kind: str, url: str) -> None:
        self._kind, self.url = kind, url
        self.slept: list[float] = []

    def __call__(self, method: str, *arguments: Any, settings: dict[str, Any] | None = None, **more: Any) -> Any:
        settings = {"url": self.url, **(settings or {})}
        if self._kind == "sync":
            with Client(**settings, sleep=self.slept.append) as client:
                return getattr(client, method)(*arguments, **more)

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        async def ask() -> Any:
            async with AsyncClient(**settings, sleep=sleep) as client:
                return await getattr(client, method)(*arguments, **more)

        return asyncio.run(ask())

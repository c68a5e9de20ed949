"""The queue in front of a fake model, with a clock that a test advances."""

import asyncio

from fourshot.serving.models.dispatcher import Dispatcher


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_dispatcher(
    clock: Clock, *, slots: int = 2, window: int = 10, rate: float = 0.0, max_wait_s: float = 1.0
) -> Dispatcher:
    return Dispatcher(
        slots=slots, window_tokens=window, max_wait_s=max_wait_s, max_queue_s=2.0, tokens_per_s=rate, clock=clock
    )


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Model:
    """A model that processes one text of 100 tokens in 0.1 s. ``served``: the clients, in order of service."""

    def __init__(self, clock: Clock, **settings: float) -> None:
        self.clock, self.served, self.tasks = clock, list[str](), list["asyncio.Task[None]"]()
        self.dispatcher = make_dispatcher(clock, window=100, rate=1000.0, **settings)  # type: ignore[arg-type]

    async def ask(self, client: str, texts: int = 1, *, adapter: str = "a") -> None:
        """Queue ``texts`` requests with one text each."""

        async def ask_once() -> None:
            await self.dispatcher.turn(adapter, 100, client=client)
            self.served.append(client)

        self.tasks += [asyncio.create_task(ask_once()) for _ in range(texts)]
        await settle()

    async def work(self, texts: int) -> None:
        for _ in range(texts):
            self.clock.now += 0.1
            self.dispatcher.done(100)
            await settle()

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert self.dispatcher.num_waiting == 0

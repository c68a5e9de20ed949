"""The queue in front of the engine: who goes first, who is rejected, and that nothing is lost."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fourshot.serving.answers import RefusalError
from fourshot.serving.models.dispatcher import BASE, Dispatcher
from fourshot.serving.models.students import queue_of
from fourshot.serving.settings import Limits
from tests.serving.queue_double import Clock, make_dispatcher, settle


async def order_of(dispatcher: Dispatcher, adapters: list[str], clock: Clock, tokens: int = 10) -> list[str]:
    """In which order these are let through when each is done before the next."""
    order: list[str] = []

    async def take_turn(adapter: str) -> None:
        await dispatcher.turn(adapter, tokens)
        order.append(adapter)

    running = []
    for adapter in adapters:
        running.append(asyncio.create_task(take_turn(adapter)))
        await settle()
        clock.now += 0.001
    while len(order) < len(adapters):
        dispatcher.done(tokens)
        await settle()
    await asyncio.gather(*running)
    return order


def test_adapters_in_a_slot_go_before_those_that_are_not() -> None:
    clock = Clock()
    order = asyncio.run(order_of(make_dispatcher(clock, slots=1), ["a", "b", "a", "b", "a", "c"], clock))
    assert order == ["a", "a", "a", "b", "b", "c"]


def test_work_without_an_adapter_needs_no_slot() -> None:
    clock = Clock()
    assert asyncio.run(order_of(make_dispatcher(clock, slots=1), ["a", "b", BASE, "b"], clock)) == ["a", BASE, "b", "b"]


def test_nobody_is_passed_over_for_longer_than_the_bound() -> None:
    clock = Clock()

    async def run() -> list[str]:
        dispatcher = make_dispatcher(clock, slots=1, max_wait_s=1.0)
        order: list[str] = []

        async def take_turn(adapter: str) -> None:
            await dispatcher.turn(adapter, 10)
            order.append(adapter)

        tasks = [asyncio.create_task(take_turn("a"))]
        await settle()
        tasks.append(asyncio.create_task(take_turn("rare")))
        await settle()
        for _ in range(30):  # there is always another one for the adapter in the slot
            clock.now += 0.1
            tasks.append(asyncio.create_task(take_turn("a")))
            await settle()
            dispatcher.done(10)
            await settle()
            if "rare" in order:
                break
        for task in tasks:
            task.cancel()
        return order

    order = asyncio.run(run())
    assert 8 <= order.index("rare") <= 12  # after about a second of ten a second


def test_the_window_bounds_what_is_in_the_engine() -> None:
    clock = Clock()

    async def run() -> list[int]:
        dispatcher, inside, counts = make_dispatcher(clock, window=25), 0, []

        async def take_turn() -> None:
            nonlocal inside
            await dispatcher.turn("a", 10)
            inside += 1
            counts.append(inside)
            await asyncio.sleep(0)
            inside -= 1
            dispatcher.done(10)

        await asyncio.gather(*(take_turn() for _ in range(20)))
        return counts

    counts = asyncio.run(run())
    assert len(counts) == 20
    assert max(counts) == 2


def test_one_text_longer_than_the_window_still_goes() -> None:
    clock = Clock()
    assert asyncio.run(order_of(make_dispatcher(clock, window=10), ["a", "b"], clock, tokens=50)) == ["a", "b"]


def test_too_much_work_is_refused_with_a_time_to_come_back() -> None:
    clock = Clock()

    async def run() -> None:
        dispatcher = make_dispatcher(clock, window=1000, rate=1000.0)  # 2 s of work may wait: 2,000 tokens
        tasks = []
        for _ in range(3):
            dispatcher.check()
            tasks.append(asyncio.create_task(dispatcher.turn("a", 1000)))
            await settle()
        with pytest.raises(RefusalError) as refused:
            dispatcher.check()
        assert refused.value.retry_after_s == pytest.approx(3.0)
        clock.now += 1
        dispatcher.done(1000)
        dispatcher.check()
        for task in tasks:
            task.cancel()

    asyncio.run(run())


def test_what_is_given_up_makes_room() -> None:
    clock = Clock()

    async def run(give_up: Callable[[asyncio.Task[None]], Awaitable[None]]) -> int:
        dispatcher = make_dispatcher(clock)
        first = asyncio.create_task(dispatcher.turn("a", 10))
        await settle()
        second = asyncio.create_task(dispatcher.turn("b", 10))
        await settle()
        await give_up(second)
        assert dispatcher.num_waiting == 0
        dispatcher.done(10)
        await first
        await asyncio.wait_for(dispatcher.turn("c", 10), 1)
        return dispatcher.num_waiting

    async def cancel(task: "asyncio.Task[None]") -> None:
        task.cancel()
        await settle()

    assert asyncio.run(run(cancel)) == 0


def test_what_is_given_up_together_leaves_nothing_behind() -> None:
    async def run() -> None:
        dispatcher = make_dispatcher(Clock(), window=10)

        async def take_turn() -> None:
            await dispatcher.turn("a", 10)
            try:
                await asyncio.Event().wait()
            finally:
                dispatcher.done(10)

        request = asyncio.gather(*(take_turn() for _ in range(3)))
        await settle()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await settle()
        assert dispatcher.num_waiting == 0
        await asyncio.wait_for(dispatcher.turn("b", 10), 1)

    asyncio.run(run())


def test_the_rate_is_what_was_done_while_there_was_work() -> None:
    clock = Clock()

    async def run() -> float:
        dispatcher = make_dispatcher(clock, window=100)
        for _ in range(5):
            await dispatcher.turn("a", 100)
            clock.now += 0.5  # 200 tokens a second
            dispatcher.done(100)
            clock.now += 10  # nobody asks: that is not the model's fault
        return dispatcher.tokens_per_s

    assert asyncio.run(run()) == pytest.approx(200, rel=0.01)


def test_after_light_load_a_burst_waits_and_is_not_refused() -> None:
    """Lone requests show a rate far below what a batch gives: on a GPU 10 ms for one, and hardly more for a hundred."""
    clock, limits = Clock(), Limits()

    async def run() -> None:
        dispatcher = queue_of(limits, 8, 32_768)
        dispatcher._clock = clock
        for _ in range(600):
            await dispatcher.turn("a", 40)
            clock.now += 0.01
            dispatcher.done(40)
        tasks = []
        for _ in range(2000):
            dispatcher.check(tokens=40)
            tasks.append(asyncio.create_task(dispatcher.turn("a", 40)))
            await settle()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def test_a_stall_is_recovered_from() -> None:
    """A rate that was once measured as next to nothing must not keep out the work that would show a better one."""
    clock = Clock()

    async def run() -> float:
        dispatcher = make_dispatcher(clock, window=8192, rate=2000.0)
        await dispatcher.turn("a", 100)
        clock.now += 60
        dispatcher.done(100)
        assert dispatcher.tokens_per_s < 30
        for _ in range(100):
            dispatcher.check()
            await asyncio.gather(*(dispatcher.turn("a", 50) for _ in range(4)))
            clock.now += 0.1
            for _ in range(4):
                dispatcher.done(50)
        return dispatcher.tokens_per_s

    assert asyncio.run(run()) > 1000


def test_the_engine_gets_a_little_work_at_a_time() -> None:
    clock = Clock()

    async def run() -> int:
        dispatcher = make_dispatcher(clock, window=8192, rate=2000.0)  # 0.2 s: 400 tokens
        tasks = [asyncio.create_task(dispatcher.turn("a", 50)) for _ in range(40)]
        await settle()
        inside = sum(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        return inside

    assert asyncio.run(run()) == 8


def test_a_request_of_many_texts_lets_others_go_between() -> None:
    clock = Clock()

    async def run() -> list[str]:
        dispatcher = make_dispatcher(clock, window=8192, rate=1000.0)
        order: list[str] = []

        async def take_turn(name: str, after: int) -> None:
            await dispatcher.turn("a", 100, after)
            order.append(name)

        tasks = [asyncio.create_task(take_turn(f"bulk {n}", 100 * n)) for n in range(30)]  # 3 s of work
        await settle()
        clock.now += 0.05
        dispatcher.check()  # 3 s of it wait, but they are in nobody's way
        tasks.append(asyncio.create_task(take_turn("small", 0)))
        await settle()
        while len(order) < 31:
            clock.now += 0.1
            dispatcher.done(100)
            await settle()
        await asyncio.gather(*tasks)
        return order

    order = asyncio.run(run())
    assert order.index("small") <= 4
    assert [name for name in order if name != "small"] == [f"bulk {n}" for n in range(30)]

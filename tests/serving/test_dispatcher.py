"""The queue in front of the engine: who goes first, who is rejected, and that nothing is lost."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fourshot.serving.answers import RefusalError
from fourshot.serving.app.dispatcher import BASE, Dispatcher
from fourshot.serving.settings import Limits


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock, *, slots: int = 2, window: int = 10, rate: float = 0.0, max_wait_s: float = 1.0) -> Dispatcher:
    return Dispatcher(
        slots=slots, window_tokens=window, max_wait_s=max_wait_s, max_queue_s=2.0, tokens_per_s=rate, clock=clock
    )


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def order_of(dispatcher: Dispatcher, adapters: list[str], clock: Clock, tokens: int = 10) -> list[str]:
    """In which order these are let through when each is done before the next."""
    order: list[str] = []

    async def one(adapter: str) -> None:
        await dispatcher.turn(adapter, tokens)
        order.append(adapter)

    running = []
    for adapter in adapters:
        running.append(asyncio.create_task(one(adapter)))
        await settle()
        clock.now += 0.001
    while len(order) < len(adapters):
        dispatcher.done(tokens)
        await settle()
    await asyncio.gather(*running)
    return order


def test_adapters_in_a_slot_go_before_those_that_are_not() -> None:
    clock = Clock()
    order = asyncio.run(order_of(made(clock, slots=1), ["a", "b", "a", "b", "a", "c"], clock))
    assert order == ["a", "a", "a", "b", "b", "c"]


def test_work_without_an_adapter_needs_no_slot() -> None:
    clock = Clock()
    assert asyncio.run(order_of(made(clock, slots=1), ["a", "b", BASE, "b"], clock)) == ["a", BASE, "b", "b"]


def test_nobody_is_passed_over_for_longer_than_the_bound() -> None:
    clock = Clock()

    async def run() -> list[str]:
        dispatcher = made(clock, slots=1, max_wait_s=1.0)
        order: list[str] = []

        async def one(adapter: str) -> None:
            await dispatcher.turn(adapter, 10)
            order.append(adapter)

        tasks = [asyncio.create_task(one("a"))]
        await settle()
        tasks.append(asyncio.create_task(one("rare")))
        await settle()
        for _ in range(30):  # there is always another one for the adapter in the slot
            clock.now += 0.1
            tasks.append(asyncio.create_task(one("a")))
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
        dispatcher, inside, most = made(clock, window=25), 0, []

        async def one() -> None:
            nonlocal inside
            await dispatcher.turn("a", 10)
            inside += 1
            most.append(inside)
            await asyncio.sleep(0)
            inside -= 1
            dispatcher.done(10)

        await asyncio.gather(*(one() for _ in range(20)))
        return most

    most = asyncio.run(run())
    assert len(most) == 20
    assert max(most) == 2


def test_one_text_longer_than_the_window_still_goes() -> None:
    clock = Clock()
    assert asyncio.run(order_of(made(clock, window=10), ["a", "b"], clock, tokens=50)) == ["a", "b"]


def test_too_much_work_is_refused_with_a_time_to_come_back() -> None:
    clock = Clock()

    async def run() -> None:
        dispatcher = made(clock, window=1000, rate=1000.0)  # 2 s of work may wait: 2,000 tokens
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
        dispatcher = made(clock)
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


def test_the_rate_is_what_was_done_while_there_was_work() -> None:
    clock = Clock()

    async def run() -> float:
        dispatcher = made(clock, window=100)
        for _ in range(5):
            await dispatcher.turn("a", 100)
            clock.now += 0.5  # 200 tokens a second
            dispatcher.done(100)
            clock.now += 10  # nobody asks: that is not the model's fault
        return dispatcher.tokens_per_s

    assert asyncio.run(run()) == pytest.approx(200, rel=0.01)


def test_a_stall_is_recovered_from() -> None:
    """A rate that was once measured as next to nothing must not keep out the work that would show a better one."""
    clock = Clock()

    async def run() -> float:
        dispatcher = made(clock, window=8192, rate=2000.0)
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
        dispatcher = made(clock, window=8192, rate=2000.0)  # 0.2 s: 400 tokens
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
        dispatcher = made(clock, window=8192, rate=1000.0)
        order: list[str] = []

        async def one(name: str, after: int) -> None:
            await dispatcher.turn("a", 100, after)
            order.append(name)

        tasks = [asyncio.create_task(one(f"bulk {n}", 100 * n)) for n in range(30)]  # 3 s of work
        await settle()
        clock.now += 0.05
        dispatcher.check()  # 3 s of it wait, but they are in nobody's way
        tasks.append(asyncio.create_task(one("small", 0)))
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


class Model:
    """Answers one text at a time, each of 100 tokens in 0.1 s, and keeps whose it was."""

    def __init__(self, clock: Clock, **settings: float) -> None:
        self.clock, self.served, self.tasks = clock, list[str](), list["asyncio.Task[None]"]()
        self.dispatcher = made(clock, window=100, rate=1000.0, **settings)  # type: ignore[arg-type]

    async def ask(self, asker: str, texts: int = 1, *, adapter: str = "a") -> None:
        """``texts`` requests of one text each."""

        async def one() -> None:
            await self.dispatcher.turn(adapter, 100, asker=asker)
            self.served.append(asker)

        self.tasks += [asyncio.create_task(one()) for _ in range(texts)]
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


def test_a_flood_of_one_asker_does_not_keep_another_waiting() -> None:
    async def run() -> None:
        model = Model(Clock())
        await model.ask("flood", 200)
        with pytest.raises(RefusalError, match=r"20\.0 s of work are ahead"):
            model.dispatcher.check("flood")
        for _ in range(5):  # a client that asks again as soon as it is answered
            model.dispatcher.check("quiet")
            await model.ask("quiet")
            await model.work(2)
        assert model.served.count("quiet") == 5
        await model.work(20)
        await model.ask("third", 20)
        await model.ask("quiet", 20)
        del model.served[:]
        await model.work(30)
        assert sorted(model.served.count(asker) for asker in ("flood", "third", "quiet")) == [10, 10, 10]
        await model.leave()

    asyncio.run(run())


def test_who_comes_back_has_saved_up_no_turns() -> None:
    async def run() -> None:
        model = Model(Clock())
        await model.ask("often", 50)
        await model.work(30)
        await model.ask("late", 20)
        del model.served[:]
        await model.work(10)
        assert model.served.count("late") == 5
        await model.leave()

    asyncio.run(run())


def test_many_askers_are_ahead_of_one_more_by_a_text_each() -> None:
    async def run() -> None:
        model = Model(Clock())  # 2 s of work may wait
        for number in range(60):
            model.dispatcher.check(f"asker {number}", 100)
            await model.ask(f"asker {number}")
            if model.dispatcher.num_waiting == 20:
                break
        with pytest.raises(RefusalError, match="ahead of this"):
            model.dispatcher.check("one more", 100)
        await model.leave()

    asyncio.run(run())


def test_a_deadline_that_cannot_be_met_is_refused_with_the_time_after_which_it_could() -> None:
    async def run() -> None:
        model = Model(Clock())
        await model.ask("a", 10)  # 1 s of work
        model.dispatcher.check("a", 500, within_s=1.6)
        with pytest.raises(
            RefusalError, match=r"within 1\.2 s: it takes 0\.5 s itself, and 1\.0 s of other work"
        ) as no:
            model.dispatcher.check("a", 500, within_s=1.2)
        assert (no.value.code, no.value.kind) == (429, "deadline")
        assert no.value.retry_after_s == pytest.approx(0.3)
        model.dispatcher.check("b", 500, within_s=1.2)  # half of that goes before somebody else's
        await model.leave()

    asyncio.run(run())


def test_requests_of_many_texts_that_would_all_be_late_are_not_all_accepted() -> None:
    """Each alone could be answered in time; their texts take turns, so all of them would be done at the end only."""

    async def run() -> list[int]:
        model = Model(Clock())
        accepted = []
        for number in range(8):
            try:
                model.dispatcher.check("a", 2000, within_s=8.0)  # 2 s of work each, of 20 texts
            except RefusalError:
                continue
            accepted.append(number)
            model.tasks += [asyncio.create_task(model.dispatcher.turn("a", 100, 100 * n, "a")) for n in range(20)]
            await settle()
        model.dispatcher.check("a", 100, within_s=2.0)  # one text goes between
        await model.leave()
        return accepted

    assert asyncio.run(run()) == [0, 1, 2, 3]


def test_in_a_long_queue_adapters_in_a_slot_still_go_first() -> None:
    """What waits longer than the bound is not passed over longer than it: its turn has not come."""

    async def run() -> None:
        model = Model(Clock(), slots=1)
        for _ in range(10):
            await model.ask("a", adapter="a")
            await model.ask("b", adapter="b")
        model.clock.now += 30  # all of it has waited longer than `max_wait_s`
        changes = 0
        for _ in range(16):
            before = list(model.dispatcher._recent)
            await model.work(1)
            changes += list(model.dispatcher._recent) != before
        assert changes <= 3
        await model.leave()

    asyncio.run(run())


def test_what_waits_is_bounded_in_number_but_for_who_has_little_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourshot.serving.app.dispatcher.MOST_WAITING", 10)

    async def run() -> None:
        dispatcher = Dispatcher(slots=1, window_tokens=1, max_wait_s=1, max_queue_s=1e9)
        tasks = [asyncio.create_task(dispatcher.turn("a", 1, asker="flood")) for _ in range(11)]
        await settle()
        with pytest.raises(RefusalError, match="10 texts wait"):
            dispatcher.check("flood")
        dispatcher.check("other")
        for task in tasks:
            task.cancel()

    asyncio.run(run())


def test_at_the_end_what_waits_is_told_so() -> None:
    async def run() -> None:
        model = Model(Clock())
        await model.ask("a", 3)
        model.dispatcher.close(RefusalError(503, "stopping", "It stops."))
        results = await asyncio.gather(*model.tasks, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), RefusalError, RefusalError]
        assert model.dispatcher.num_waiting == 0

    asyncio.run(run())


def test_what_is_remembered_of_askers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourshot.serving.app.dispatcher.MOST_ASKERS", 10)

    async def run() -> None:
        model = Model(Clock())
        await model.ask("always", 100)
        for number in range(50):
            await model.ask(f"asker {number}")
            await model.work(2)
        assert len(model.dispatcher._given) <= 10
        await model.leave()
        model.dispatcher.done(100)
        assert not model.dispatcher._given

    asyncio.run(run())


def test_a_batch_job_of_64_clients_is_answered_and_not_refused_and_another_client_hardly_waits() -> None:
    """Each client asks again as soon as it is answered, or when it was told to; ten texts a second are answered."""

    async def run(max_queue_s: float) -> tuple[int, int, float]:
        model = Model(Clock())
        model.dispatcher._max_queue_s = max_queue_s
        waiting: dict[str, tuple[asyncio.Task[None], float]] = {}
        ready_at = {f"{'job' if number else 'other'} {number}": 0.0 for number in range(65)}
        answered = refused = 0
        other_s: list[float] = []
        for _ in range(600):
            now = model.clock.now
            for name, (task, since) in list(waiting.items()):
                if task.done():
                    del waiting[name]
                    answered += 1
                    if name.startswith("other"):
                        other_s.append(now - since)
            for name in ready_at.keys() - waiting.keys():
                if ready_at[name] > now:
                    continue
                try:
                    model.dispatcher.check(asker := name.split()[0])
                except RefusalError as refusal:
                    refused += 1
                    ready_at[name] = now + max(1.0, round(refusal.retry_after_s))
                    continue
                waiting[name] = asyncio.create_task(model.dispatcher.turn("a", 100, asker=asker)), now
            await settle()
            await model.work(1)
        model.tasks += [task for task, _ in waiting.values()]
        await model.leave()
        return answered, refused, max(other_s)

    answered, refused, other_s = asyncio.run(run(Limits().max_queue_s))
    assert (answered > 550, refused) == (True, 0)
    assert other_s <= 0.5
    _, refused, _ = asyncio.run(run(0.5))  # what a page may want
    assert refused > 1000

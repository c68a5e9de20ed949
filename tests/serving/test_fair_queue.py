"""Clients take turns in the queue; what cannot be answered in time is told so; what waits is bounded."""

import asyncio

import pytest

from fourshot.serving.answers import RefusalError
from fourshot.serving.models.dispatcher import Dispatcher
from fourshot.serving.settings import Limits
from tests.serving.queue_double import Clock, Model, settle


def test_a_flood_of_one_client_does_not_keep_another_waiting() -> None:
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
        assert sorted(model.served.count(client) for client in ("flood", "third", "quiet")) == [10, 10, 10]
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


def test_many_clients_are_ahead_of_one_more_by_a_text_each() -> None:
    async def run() -> None:
        model = Model(Clock())  # 2 s of work may wait
        for number in range(60):
            model.dispatcher.check(f"client {number}", 100)
            await model.ask(f"client {number}")
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
    monkeypatch.setattr("fourshot.serving.models.dispatcher.MOST_WAITING", 10)

    async def run() -> None:
        dispatcher = Dispatcher(slots=1, window_tokens=1, max_wait_s=1, max_queue_s=1e9)
        tasks = [asyncio.create_task(dispatcher.turn("a", 1, client="flood")) for _ in range(11)]
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


def test_what_is_remembered_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourshot.serving.models.dispatcher.MOST_CLIENTS", 10)

    async def run() -> None:
        model = Model(Clock())
        await model.ask("always", 100)
        for number in range(50):
            await model.ask(f"client {number}")
            await model.work(2)
        assert len(model.dispatcher._given_tokens) <= 10
        await model.leave()
        model.dispatcher.done(100)
        assert not model.dispatcher._given_tokens

    asyncio.run(run())


def test_who_asked_once_is_forgotten_before_who_asked_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourshot.serving.models.dispatcher.MOST_CLIENTS", 10)

    async def run() -> None:
        model = Model(Clock())
        await model.dispatcher.turn("a", 1000, client="much")
        model.dispatcher.done(900)  # the rest runs on: nobody is forgotten for there being no work
        for number in range(50):
            await model.ask(f"client {number}")
            await model.work(1)
            assert len(model.dispatcher._given_tokens) <= 10
        await model.ask("much")
        await model.ask("new", 2)
        del model.served[:]
        await model.work(3)
        assert model.served == ["new", "new", "much"]
        await model.leave()

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
                    model.dispatcher.check(client := name.split()[0])
                except RefusalError as refusal:
                    refused += 1
                    ready_at[name] = now + max(1.0, round(refusal.retry_after_s))
                    continue
                waiting[name] = asyncio.create_task(model.dispatcher.turn("a", 100, client=client)), now
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

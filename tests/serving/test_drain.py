"""A service that is being stopped: what it took is answered, what comes later is told to ask again."""

import asyncio

import pytest

from fourshot.serving.answers import RefusalError
from fourshot.serving.concurrency import all_or_none
from tests.serving.app_in_process import InProcess

BODY = b'{"input": "The door is jammed."}'


@pytest.mark.parametrize("turns", range(4))  # of the event loop, from the request's arrival to the signal
def test_a_request_is_answered_however_shortly_before_the_stop_it_came(turns: int) -> None:
    async def run() -> None:
        app = InProcess()
        app.scorer.answers.clear()
        taken = asyncio.create_task(app.service.classify("desk", BODY))
        for _ in range(1 + turns):
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.3, app.scorer.answers.set)
        await app.service.drain(5)
        assert taken.done() and taken.result().results[0].label == "lock"

    asyncio.run(run())


def test_what_comes_after_the_stop_is_told_when_to_ask_again() -> None:
    async def run() -> None:
        app = InProcess()
        app.scorer.answers.clear()
        taken = asyncio.create_task(app.service.classify("desk", BODY))
        await asyncio.sleep(0)
        draining = asyncio.create_task(app.service.drain(5))
        await asyncio.sleep(0)
        with pytest.raises(RefusalError) as refused:
            await app.service.classify("desk", BODY)
        assert (refused.value.code, refused.value.kind) == (503, "stopping")
        assert not draining.done()
        app.scorer.answers.set()
        await draining
        assert (await taken).results[0].label == "lock"

    asyncio.run(run())


def test_a_task_that_is_withdrawn_while_it_answers_has_no_texts_in_flight_after() -> None:
    async def run() -> None:
        app = InProcess()
        app.scorer.answers.clear()
        taken = asyncio.create_task(app.service.classify("desk", BODY))
        gauge = app.service.metrics.in_flight
        while not app.service._in_flight["desk"]:
            await asyncio.sleep(0)
        assert gauge.labels("desk")._value.get() == 1
        app.service.metrics.change("desk", is_served=False)
        app.scorer.answers.set()
        await taken
        assert gauge.labels("desk")._value.get() == 0

    asyncio.run(run())


def test_where_one_of_several_fails_nobody_goes_on_with_the_others() -> None:
    async def run() -> None:
        ended: list[str] = []

        async def long() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("long")

        async def failing() -> None:
            await asyncio.sleep(0)
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await all_or_none([long(), failing()])
        assert ended == ["long"]

    asyncio.run(run())


def test_a_service_that_is_being_stopped_is_not_well() -> None:
    async def run() -> None:
        app = InProcess()
        app.bare.get("/health")(lambda: None)
        assert (await app.ask("GET", "/health")).code == 200
        await app.service.drain(0)
        answer = await app.ask("GET", "/health")
        assert (answer.code, answer.error["type"], answer.headers["retry-after"]) == (503, "stopping", "5")

    asyncio.run(run())

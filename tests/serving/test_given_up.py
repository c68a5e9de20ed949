"""Texts that a client gives up while the model computes them: they are no work that was done."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourshot.serving.answers import RefusalError
from fourshot.serving.models.dispatcher import Dispatcher
from fourshot.serving.models.scorer import Scorer
from fourshot.serving.models.students import Students, queue_of
from fourshot.serving.settings import Limits
from tests.serving.queue_double import Clock, make_dispatcher, settle


async def rate_after(asking: Coroutine[Any, Any, Any], is_computing: asyncio.Event, dispatcher: Dispatcher) -> float:
    """The rate that the queue has measured when ``asking`` was given up in the model."""
    task = asyncio.create_task(asking)
    await is_computing.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and not dispatcher._running_tokens
    return dispatcher.tokens_per_s


def test_a_text_that_a_student_computes_in_vain_adds_nothing_to_the_rate(tmp_path: Path) -> None:
    async def run() -> float:
        is_computing, loop, may_end = asyncio.Event(), asyncio.get_running_loop(), threading.Event()

        def answer(texts: list[str]) -> list[str]:
            loop.call_soon_threadsafe(is_computing.set)
            may_end.wait(10)
            return texts

        class Version:
            compute = staticmethod(answer)

        students, version = Students(tmp_path, queue_of(Limits())), Version()
        try:
            asking = students.ask(version, "a", 100, 0, "")  # type: ignore[arg-type]
            return await rate_after(asking, is_computing, students.dispatcher)
        finally:
            may_end.set()

    assert asyncio.run(run()) == 0


def test_a_text_that_the_engine_computes_in_vain_adds_nothing_to_the_rate() -> None:
    async def run() -> float:
        is_computing, dispatcher = asyncio.Event(), queue_of(Limits())

        async def generate(*_: Any, **__: Any) -> AsyncIterator[None]:
            is_computing.set()
            await asyncio.Event().wait()
            yield

        scorer = Scorer(SimpleNamespace(generate=generate, errored=False), dispatcher)
        asking = scorer._ask([1, 2, 3], None, None, None, 0, "")  # type: ignore[arg-type]
        return await rate_after(asking, is_computing, dispatcher)

    assert asyncio.run(run()) == 0


def test_what_is_given_up_does_not_make_the_model_look_faster() -> None:
    """The machine has become slow, so that most texts miss their deadline in the engine: less is to be accepted."""
    clock = Clock()

    async def run() -> None:
        dispatcher = make_dispatcher(clock, window=100, rate=1000.0)
        tasks = [asyncio.create_task(dispatcher.turn("a", 100)) for _ in range(400)]
        await settle()
        for number in range(200):
            clock.now += 0.1
            dispatcher.done(100, is_computed=number % 4 == 0)
            await settle()
        assert dispatcher.tokens_per_s == pytest.approx(250, rel=0.05)
        for _ in range(100):  # the engine hangs
            clock.now += 60
            dispatcher.done(100, is_computed=False)
            await settle()
        with pytest.raises(RefusalError) as refused:
            dispatcher.check()
        assert 1 < refused.value.retry_after_s < 1e5
        for task in tasks:
            task.cancel()

    asyncio.run(run())


def test_a_client_that_gives_up_while_nobody_waits_changes_no_rate() -> None:
    clock = Clock()

    async def run() -> float:
        dispatcher = make_dispatcher(clock, window=100, rate=1000.0)
        for _ in range(100):
            await dispatcher.turn("a", 100)
            clock.now += 0.05
            dispatcher.done(100, is_computed=False)
        return dispatcher.tokens_per_s

    assert asyncio.run(run()) == pytest.approx(1000)

"""What a service counts, of tasks that come and go."""

import asyncio
import threading
from collections.abc import Iterator

import msgspec
import pytest

from fourshot.pipeline.task import Example
from fourshot.serving.app import metrics as module
from fourshot.serving.app.lifecycle import live
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.settings import ServeSettings
from tests.serving.app_in_process import DESK, InProcess


def tasks_of(metrics: Metrics) -> set[str]:
    """Those that a scrape has something of."""

    def samples() -> Iterator[dict[str, str]]:
        for metric, _ in metrics._by_task:
            for family in metric.collect():
                yield from (sample.labels for sample in family.samples)

    return {labels["task"] for labels in samples()}


def test_what_was_counted_of_tasks_that_went_is_dropped_once_it_was_scraped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service lives for long, and takes and loses thousands of them."""
    monkeypatch.setattr(module, "FORGET_EVERY_S", 0.0)

    async def run() -> None:
        app = InProcess()
        metrics, names = app.service.metrics, [f"task-{number}" for number in range(3)]
        for name in ("desk", *names):
            app.adapters.add(msgspec.structs.replace(DESK, name=name), [Example(text="a", label="lock")])
            metrics.change(name, is_served=True)
            assert (await app.ask("POST", f"/v1/classify/{name}", b'{"input": "a"}')).code == 200
        taken = app.adapters.current.pop("task-0")
        for name in names:
            metrics.change(name, is_served=False)
        metrics.forget()
        assert tasks_of(metrics) == {"desk", *names}, "who scrapes has not seen the last of them"
        metrics.change("task-1", is_served=True)
        monkeypatch.setattr(module, "FORGET_AFTER_S", 0.0)
        app.adapters.current["task-0"] = taken
        app.scorer.answers.clear()
        asking = asyncio.create_task(app.service.classify("task-0", b'{"input": "a"}'))
        while not metrics.num_in_flight["task-0"]:
            await asyncio.sleep(0)
        metrics.forget()
        assert tasks_of(metrics) == {"desk", "task-0", "task-1"}, "one came back, and one answers still"
        app.scorer.answers.set()
        await asking
        metrics.forget()
        assert tasks_of(metrics) == {*metrics.num_requests} == {*metrics.num_in_flight} == {"desk", "task-1"}

    asyncio.run(run())


def test_requests_are_answered_while_metrics_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Going through those of a thousand tasks takes most of a second."""
    is_forgetting, is_answered, in_time = threading.Event(), threading.Event(), list[bool]()

    def forget() -> None:
        is_forgetting.set()
        in_time.append(is_answered.wait(2))

    async def refresh(*_: float) -> bool:
        return True

    async def run() -> None:
        app = InProcess()
        vars(app.adapters).update(damaged=set(), num_waiting=0, tokens_per_s=0.0, refresh=refresh)
        monkeypatch.setattr(app.service.metrics, "forget", forget)
        tasks = await live(app.service, ServeSettings(adapters="unused"))
        while not is_forgetting.is_set():
            await asyncio.sleep(0)
        assert (await app.ask("POST", "/v1/classify/desk", b'{"input": "a"}')).code == 200
        is_answered.set()
        while not in_time:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()

    asyncio.run(run())
    assert in_time[0]

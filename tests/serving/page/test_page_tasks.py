"""The list of tasks on the page at ``/``: the chosen one, the search and the load, in a real browser."""

from typing import TYPE_CHECKING

import msgspec
import pytest
from prometheus_client import generate_latest

from fourshot.serving.fleet.merged_pages import merged
from tests.serving.fake_server import Reply
from tests.serving.page.page_service import CLASSIFY, PageService, cells, info, poll, ready, wait_for_text

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_a_task_that_is_away_stays_chosen_and_is_not_asked(page: "Page", service: PageService) -> None:
    """Such as one whose student is being replaced: its text must not go to another task."""
    mood, topic = service.tasks
    ready(page)
    page.click("#tasks tr:nth-child(2) input")
    page.fill("#texts", "The court is adjourned.")
    service.tasks = [mood]
    poll(page)
    wait_for_text(page, "#gone", "topic is not served now.")
    page.click("#ask button.first")
    wait_for_text(page, "#fault", "topic is not served now.")
    assert service.requests_to(CLASSIFY) == []
    service.tasks = [mood, topic]
    poll(page)
    wait_for_text(page, "#gone", "")
    assert page.is_checked("#tasks tr:nth-child(2) input")
    service.shares = {"adapter": {"art": 0.25, "law": 0.5, "war": 0.25}}
    with page.expect_response(f"**{CLASSIFY}/topic"):
        page.click("#ask button.first")


@pytest.mark.parametrize("tasks", [0, 2])
def test_an_address_of_a_task_that_is_not_there_is_said_to_be_so(
    page: "Page", service: PageService, tasks: int
) -> None:
    service.tasks = service.tasks[:tasks]
    page.goto("/#task=typo")
    wait_for_text(page, "#gone", "typo is not served now.")
    assert page.inner_text("#chosen") == "typo"
    assert page.locator("#tasks input:checked").count() == 0
    page.fill("#texts", "Not for me.")
    page.click("#ask button.first")
    wait_for_text(page, "#fault", "typo is not served now.")


def test_the_task_of_the_address_is_in_view(page: "Page", service: PageService) -> None:
    service.tasks = [info(f"task-{index:03}", ["yes", "no"]) for index in range(300)]
    page.goto("/#task=task-250")
    wait_for_text(page, "#state", "Ready")
    box, row = page.locator(".scroll").bounding_box(), page.locator("#tasks tr:has(:checked)").bounding_box()
    assert box and row
    assert box["y"] <= row["y"] and row["y"] + row["height"] <= box["y"] + box["height"] + 1
    assert page.evaluate("scrollY") == 0


def test_a_search_says_how_many_tasks_it_finds(page: "Page", service: PageService) -> None:
    service.tasks = [info(f"task-{index:03}", ["yes", "no"]) for index in range(300)]
    ready(page)
    assert page.inner_text("#found") == ""
    page.fill("#filter", "task-00")
    assert page.inner_text("#found") == "10 of 300 tasks"
    page.fill("#filter", "nothing such")
    assert page.inner_text("#found") == "0 of 300 tasks"
    assert page.get_attribute("#found", "role") == "status"


def test_an_address_that_is_written_anew_chooses_its_task(page: "Page", service: PageService) -> None:
    ready(page)
    page.evaluate("location.hash = 'task=topic'")
    wait_for_text(page, "#chosen", "topic")
    assert page.is_checked("#tasks tr:nth-child(2) input")


def test_what_a_replica_counted_before_it_came_back_is_not_of_the_last_minute(
    page: "Page", service: PageService
) -> None:
    fresh = generate_latest(service.metrics_registry).decode()
    for _ in range(1000):
        service.metrics.latency.labels("mood", "adapter").observe(4.0)
    old = generate_latest(service.metrics_registry).decode()
    one, both = (Reply(200, {}, merged(pages)) for pages in ({0: fresh}, {0: fresh, 1: old}))
    service.faults["/metrics"] = one
    ready(page)
    poll(page)
    wait_for_text(page, "#tasks tbody tr:first-child td:nth-child(5)", "0")
    service.faults["/metrics"] = both
    service.tasks[0] = msgspec.structs.replace(service.tasks[0], requests=1000, in_flight=1)
    poll(page)
    wait_for_text(page, "#tasks tbody tr:first-child td:nth-child(6)", "1")
    poll(page)
    wait_for_text(page, "#tasks tbody tr:first-child td:nth-child(5)", "0")
    assert cells(page, "#tasks tbody tr")[0][6:] == ["\u2013"] * 2

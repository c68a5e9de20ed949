"""Keys, faults and every kind of user on the page at ``/``, in a real browser, against a fake server."""

import re
from typing import TYPE_CHECKING

import msgspec
import pytest

from fourshot.serving.api import Refused
from tests.serving.fake_server import Reply, refusal, served
from tests.serving.page.page_service import (
    CLASSIFY,
    MOODS,
    POLL_MS,
    PageService,
    cells,
    classify,
    info,
    poll,
    ready,
    wait_for_text,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

NONE = "\u2013"  # stands where there is no number


def test_a_key_is_asked_for_sent_and_forgotten(page: "Page", service: PageService) -> None:
    service.key = "fs-right"
    page.goto("/")
    page.wait_for_selector("#key")
    assert page.evaluate("[document.activeElement.id, document.activeElement.type]") == ["secret", "password"]
    wait_for_text(page, "#key-why", "The service asks for one.")
    page.keyboard.type("fs-wrong\n")
    wait_for_text(page, "#key-why", re.compile("not known"))
    assert service.requests_to("/v1/tasks")[-1].key == "fs-wrong"
    page.keyboard.type("fs-right\n")
    wait_for_text(page, "#state", "Ready")
    page.fill("#texts", "Not for me.")
    assert '-H "Authorization: Bearer $FOURSHOT_API_KEY" ' in (page.text_content("#curl") or "")
    assert page.is_hidden("#key")
    service.received.clear()
    classify(page, "Not for me.")
    poll(page)
    assert {request.key for request in service.received} == {"fs-right"}
    storage_script = (
        "[Object.values(sessionStorage), localStorage.length, document.cookie, location.href.includes('right')]"
    )
    assert page.evaluate(storage_script) == [["fs-right"], 0, "", False]
    assert "fs-right" not in page.content()
    page.click("#forget")
    page.wait_for_selector("#key")
    assert page.evaluate("sessionStorage.length") == 0


def test_a_key_that_is_taken_away_is_asked_for_again(page: "Page", service: PageService) -> None:
    ready(page)
    page.evaluate("sessionStorage.setItem('fourshot-key', 'fs-old')")
    service.key = "fs-new"
    classify(page, "Not for me.")
    assert page.inner_text("#answer .note") == "The service asks for an API key."
    poll(page)  # also once the tasks were asked for, without a key
    assert "not known" in page.inner_text("#key-why")


def test_without_a_key_the_page_does_not_keep_asking(page: "Page", service: PageService) -> None:
    service.key = "fs-right"
    page.goto("/")
    page.wait_for_selector("#key")
    service.received.clear()
    page.clock.run_for(5 * POLL_MS)
    assert service.received == []


def test_errors_are_put_in_words(page: "Page", service: PageService) -> None:
    ready(page)
    service.faults[CLASSIFY] = refusal(429, message="Too busy: 12 texts wait.", Retry_After="7")
    classify(page, "Not for me.")
    told = "Too busy: 12 texts wait. Ask again in 7 s."
    assert page.locator("#answer .note").all_inner_texts() == [told, "Not asked."]
    assert page.inner_text("#said") == f"Task mood. Adapter: {told}"
    assert len(service.requests_to(CLASSIFY)) == 1  # the second method is not asked of a service that is too busy
    with page.expect_response(f"**{CLASSIFY}/*"):
        page.click("#ask button.first")
    assert len(service.requests_to(CLASSIFY)) == 2


@pytest.mark.parametrize("code", [400, 504])
def test_what_one_method_cannot_do_is_said_of_it_alone(page: "Page", service: PageService, code: int) -> None:
    """A text may be too long for an adapter, or take it too long, and not for a student."""
    service.tasks[0] = info("mood", ["bad", "good"], methods=["adapter", "student", "icl"])
    ready(page)
    service.replies = [refusal(code, message="Not by this method.")]
    classify(page, "Not for me.")
    assert [request.method for request in service.requests_to(CLASSIFY)] == ["adapter", "student", "icl"]
    assert page.locator("#answer .note").all_inner_texts() == ["Not by this method."]
    status = page.get_by_role("status").filter(has_text="Task mood")  # for those who hear the page
    said = "Task mood. Adapter: Not by this method. Student: good (87.5 %). In context: bad (62.5 %)."
    assert status.inner_text() == said


@pytest.mark.parametrize("body", [b'{"x": 1}', b"null", b"<html>"])
def test_an_answer_of_another_form_is_told(page: "Page", service: PageService, body: bytes) -> None:
    """Such as of a proxy."""
    ready(page)
    service.faults[CLASSIFY] = Reply(200, {}, body)
    classify(page, "Not for me.")
    assert page.locator("#answer .note").all_inner_texts()[1:] == ["Not asked."]
    assert page.inner_text("#said").startswith("Task mood. Adapter: The answer could not be read: ")
    service.faults["/v1/tasks"] = Reply(200, {}, body)
    poll(page)
    wait_for_text(page, "#state", re.compile("^The answer could not be read: "))
    page.locator("#texts").press_sequentially("The page goes on.")


def test_nothing_is_sent_without_a_text(page: "Page", service: PageService) -> None:
    ready(page)
    page.click("#ask button.first")
    assert page.inner_text("#fault") == "Write a text first."
    assert page.evaluate("document.activeElement.id") == "texts"
    assert service.requests_to(CLASSIFY) == []


def test_the_page_waits_for_a_service_that_starts_again(page: "Page", service: PageService) -> None:
    service.tasks[0] = msgspec.structs.replace(service.tasks[0], requests=100)
    ready(page)
    service.faults["/"] = refusal(503, message="The server is restarting.", Retry_After="5")
    poll(page)
    wait_for_text(page, "#state", re.compile("^The server is restarting. Looking again"))
    assert cells(page, "#tasks tbody tr")[0][4:] == [NONE] * 4
    service.tasks[0] = msgspec.structs.replace(service.tasks[0], requests=0)
    del service.faults["/"]
    poll(page)
    wait_for_text(page, "#state", "Ready")
    poll(page)
    wait_for_text(page, "#tasks tbody tr:first-child td:nth-child(5)", "0")


def test_a_hidden_tab_asks_nothing(page: "Page", service: PageService) -> None:
    ready(page)
    turn = """hidden => {
        Object.defineProperty(document, 'hidden', { configurable: true, value: hidden });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.evaluate(turn, True)
    service.received.clear()
    page.clock.run_for(5 * POLL_MS)
    assert service.received == []
    with page.expect_response(lambda response: "/v1/tasks" in response.url):
        page.evaluate(turn, False)


def test_nothing_leaves_the_origin(page: "Page", service: PageService) -> None:
    urls: set[str] = set()
    violations: list[str] = []
    page.on("request", lambda request: urls.add(request.url))
    page.on("console", lambda message: violations.append(message.text))
    ready(page)
    classify(page, "Not for me.")
    routes = ("/", "/v1/tasks?all=1", "/metrics", "/v1/classify/mood")
    assert {url for url in urls if not url.startswith("data:")} == {service.url + route for route in routes}
    violations.clear()
    with served(PageService()) as other_service:  # even a script that got in could tell nobody
        sent = "url => fetch(url).then(() => 'sent', (error) => error.name)"
        assert page.evaluate(sent, f"{other_service.url}/metrics") == "TypeError"
        add = """url => new Promise((done) => {
            const made = new Image();
            made.onload = () => done('loaded'); made.onerror = () => done('blocked');
            made.src = url; document.body.append(made);
        })"""
        assert page.evaluate(add, f"{other_service.url}/x.png") == "blocked"
        assert other_service.received == []
    assert sum("violates the following Content Security Policy" in text for text in violations) == 2


def test_the_page_works_without_a_mouse(page: "Page", service: PageService) -> None:
    ready(page)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#chosen") == "topic"
    page.keyboard.press("Tab")
    service.shares = {"adapter": {"art": 1.0, "law": 0.0, "war": 0.0}}
    page.keyboard.type("A painting.")
    page.keyboard.press("Control+Enter")
    wait_for_text(page, "#said", re.compile(r"art \(100.0 %\)"))
    page.reload()  # the address remembers the task
    wait_for_text(page, "#chosen", "topic")
    unnamed = "inputs => inputs.filter(input => !input.labels.length).map(input => input.id)"
    assert page.locator("input, textarea").evaluate_all(unnamed) == []


def test_one_task_of_many_can_be_searched(page: "Page", service: PageService) -> None:
    service.tasks = [info(f"task-{index:03}", ["yes", "no" if index else "maybe"]) for index in range(300)]
    ready(page)
    shown = page.locator("#tasks tbody tr:visible")
    assert shown.count() == 300
    page.fill("#filter", "MAYBE")
    assert shown.count() == 1
    assert page.evaluate("document.querySelector('.scroll').offsetHeight") < 600
    page.fill("#filter", "sk-007")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.inner_text("#chosen") == "task-007"


LOOKS = [
    {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    for width in (360, 1400)
    for scheme in ("light", "dark")
]


@pytest.mark.parametrize("page", LOOKS, indirect=True)
def test_it_fits_and_can_be_read(page: "Page", service: PageService) -> None:
    service.tasks = [info("t" * 60, ["l" * 80, "good"], adapter="a" * 60)]
    service.shares = {method: {"l" * 80: 0.25, "good": 0.75} for method in MOODS}
    service.refused = [Refused(path="p" * 90, reason="It is broken.")]
    ready(page)
    page.click("#refused summary")
    page.click("#ask summary")
    page.fill("#texts", "w" * 300 + "\n" + "good")
    classify(page, "")
    assert page.viewport_size is not None
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.evaluate(FAINT_TEXTS) == []


# Texts whose contrast with their ground is below 4.5. Source: WCAG 2.2, success criterion 1.4.3.
FAINT_TEXTS = """
() => {
const part = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const [r, g, b, a = 1] = rgb(getComputedStyle(node).backgroundColor);
    if (a > 0) return [r, g, b];
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll("body *")]
  .filter((node) => node.offsetHeight && [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim()))
  .map((node) => [node, light(rgb(getComputedStyle(node).color)), light(ground(node))])
  .map(([node, one, other]) => [node.innerText, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)])
  .filter(([, ratio]) => ratio < 4.5);
}
"""


def test_a_key_whose_requests_are_used_up_loses_nothing_that_was_seen(page: "Page", service: PageService) -> None:
    """It may have one request under way: the page asks for one thing at a time, and what it knew still holds."""
    service.tasks[0] = msgspec.structs.replace(service.tasks[0], requests=1, in_flight=3)
    ready(page)
    poll(page)
    wait_for_text(page, "#tasks tbody tr:first-child td:nth-child(5)", "0")
    service.faults["/"] = refusal(
        429, message="This key has 1 request in progress, which is its limit.", Retry_After="1"
    )
    poll(page)
    wait_for_text(page, "#state", "This key has 1 request in progress, which is its limit. Looking again every 2 s.")
    assert page.get_attribute("#state", "class") == "dim"
    assert cells(page, "#tasks tbody tr")[0][4:6] == ["0", "3"]
    del service.faults["/"]
    service.received.clear()
    poll(page)
    wait_for_text(page, "#state", "Ready")
    assert [request.path for request in service.received] == ["/v1/tasks?all=1", "/metrics"]


def test_many_labels_leave_room_for_the_other_columns(page: "Page", service: PageService) -> None:
    labels = [f"label_{number}" for number in range(77)]
    service.tasks = [info("intents", labels, methods=["adapter", "student", "icl"])]
    ready(page)
    lines = """cell => {
        const words = document.createRange();
        words.selectNodeContents(cell);
        return words.getClientRects().length;
    }"""
    assert page.locator("#tasks tbody td").nth(2).evaluate(lines) <= 3  # a word is in one line


@pytest.mark.parametrize("page", [{"forced_colors": "active"}], indirect=True)
def test_bars_are_seen_in_the_colours_of_the_system(page: "Page", service: PageService) -> None:
    ready(page)
    classify(page, "Not for me.")
    bar = page.locator(".bar div").first
    colour = "node => getComputedStyle(node).backgroundColor"
    assert bar.locator("i").evaluate(colour) != bar.evaluate(colour)

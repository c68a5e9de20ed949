"""What the page at ``/`` shows and asks, in a real browser, against a fake server."""

import re
from typing import TYPE_CHECKING

import msgspec
import pytest

from fourshot.serving.api import Refused
from tests.serving.fake_server import refusal
from tests.serving.page.page_service import (
    CLASSIFY,
    MOODS,
    PageService,
    cells,
    classify,
    info,
    poll,
    ready,
    wait_for_text,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

NONE = "\u2013"  # stands where there is no number
HOSTILE = "<img src=x onerror=window.hurt=1>"


def test_the_tasks_are_listed(page: "Page", service: PageService) -> None:
    ready(page)
    mood, topic = cells(page, "#tasks tbody tr")
    assert mood[:4] == ["mood", "2: bad, good", "mood-2\npinned, 2 versions", "adapter, icl"]
    assert topic[:4] == ["topic", "3: art, law, war", "topic-2", "adapter"]
    assert page.inner_text("#base") == "tiny"
    assert page.is_hidden("#refused")  # nothing is refused, so nothing is said


def test_what_is_refused_is_listed_with_its_reason(page: "Page", service: PageService) -> None:
    service.refused = [Refused(path="old-1", reason="It is of another base model.")]
    ready(page)
    assert page.inner_text("#refused").strip() == "Not served: 1"
    page.click("#refused summary")
    assert cells(page, "#refused tbody tr") == [["old-1", "It is of another base model."]]


def test_load_is_that_of_the_last_seconds(page: "Page", service: PageService) -> None:
    for _ in range(1000):  # before the page looked: not its business
        service.metrics.latency.labels("mood", "adapter").observe(4.0)
    ready(page)
    assert cells(page, "#tasks tbody tr")[0][4:] == [NONE, "0", NONE, NONE]
    for method in ("adapter", "icl"):
        for _ in range(50):
            service.metrics.latency.labels("mood", method).observe(0.03)
    service.tasks[0] = msgspec.structs.replace(service.tasks[0], requests=100, in_flight=3)
    poll(page)
    wait_for_text(page, "#tasks tbody tr:first-child td:nth-child(6)", "3")
    rate, _, p50, p95 = cells(page, "#tasks tbody tr")[0][4:]
    assert 20 < float(rate) <= 50  # 100 requests within two seconds, or a little more
    assert (p50, p95) == ("30 ms", "39 ms")  # all of them lie between 20 and 40 ms
    assert cells(page, "#tasks tbody tr")[1][4:] == ["0", "0", NONE, NONE]


def test_without_metrics_the_tasks_say_what_they_can(page: "Page", service: PageService) -> None:
    service.faults["/metrics"] = refusal(403, message="This key is for tasks only.")
    ready(page)
    poll(page)
    wait_for_text(page, "#tasks tbody tr:first-child td:nth-child(5)", "0")
    assert cells(page, "#tasks tbody tr")[0][4:] == ["0", "0", NONE, NONE]
    assert page.inner_text("#load") == "No latencies: /metrics could not be read."
    assert len(service.requests_to("/metrics")) == 1  # a key that may not read it now may not in two seconds


def test_both_methods_are_asked_and_their_bars_are_the_answers(page: "Page", service: PageService) -> None:
    ready(page)
    classify(page, "Not for me.")
    requests = service.requests_to(CLASSIFY)
    assert [request.path for request in requests] == ["/v1/classify/mood"] * 2
    assert [msgspec.json.decode(request.body) for request in requests] == [
        {"input": "Not for me.", "method": "adapter"},
        {"input": "Not for me.", "method": "icl"},
    ]
    assert page.inner_text("#said") == "Task mood. Adapter: good (93.8 %). In context: bad (62.5 %)."
    fill = "b.querySelector('i').offsetWidth / b.querySelector('div').clientWidth"
    bars = page.locator(".bar").evaluate_all(
        f"bars => bars.map(b => [b.className, b.title, {fill}, b.innerText.trim()])"
    )
    expected_bars = [("adapter", 0.9375), ("icl", 0.375), ("adapter", 0.0625), ("icl", 0.625)]
    for (method, share), (look, title, filled, label) in zip(expected_bars, bars, strict=True):
        assert (look, title, label) == (f"bar {method}", str(share), f"{100 * share + 1e-9:.1f} %")
        assert filled == pytest.approx(share, abs=0.01)
    rows = {row[0]: row[1:] for row in cells(page, "#answer tbody tr")}
    assert rows["total_ms"] == ["23.8", "23.8"]
    assert rows["queue_ms"] == ["1.3", "1.3"]
    assert rows["model_ms"] == ["20.5", "20.5"]
    assert rows["prompt tokens"] == ["40", "40"]
    assert rows["cached prompt tokens"] == ["32", "32"]


def test_a_task_without_examples_is_not_asked_in_context(page: "Page", service: PageService) -> None:
    service.shares = {"adapter": {"art": 0.25, "law": 0.5, "war": 0.25}}
    ready(page)
    page.click("#tasks tr:nth-child(2) input")
    classify(page, "The court is adjourned.")
    assert [request.path for request in service.requests_to(CLASSIFY)] == ["/v1/classify/topic"]
    assert "its card holds no examples" in page.inner_text("#answer")
    assert "law (50.0 %)" in page.inner_text("#said")


def test_a_student_stands_beside_its_teacher_with_the_times_of_both(page: "Page", service: PageService) -> None:
    of_teacher = {"student": "mood-s", "teacher": "mood-2", "methods": ["adapter", "student", "icl"]}
    alone = {"student": "topic-2", "teacher": "a committee", "methods": ["student"]}
    service.tasks = [info("mood", ["bad", "good"], **of_teacher), info("topic", ["art", "law"], **alone)]
    ready(page)
    assert [row[2:4] for row in cells(page, "#tasks tbody tr")] == [
        ["mood-2\nstudent mood-s of mood-2", "adapter, student, icl"],
        ["topic-2\na student of a committee", "student"],
    ]
    classify(page, "one\ntwo")
    assert [request.method for request in service.requests_to(CLASSIFY)] == ["adapter", "student", "icl"]
    assert "All methods give the same label for 0 of 2" in page.inner_text("#answer")
    assert "1. good, in context bad one" in page.inner_text(".texts")
    rows = {row[0]: row[1:] for row in cells(page, "#answer > div > .grid tr, #answer > .grid tr")}
    assert rows[""] == ["Adapter\nmood-2", "Student\nmood-s", "In context\nthe base model, with examples"]
    assert rows["total_ms"] == ["23.8"] * 3
    page.click("#tasks tr:nth-child(2) input")
    assert page.locator("#ask .line label:visible").all_inner_texts() == ["One text per line", "Student"]
    with page.expect_response(f"**{CLASSIFY}/topic") as response:
        page.click("#ask button.first")
    assert msgspec.json.decode(response.value.request.post_data or "")["method"] == "student"


def test_every_line_is_a_text_unless_switched_off(page: "Page", service: PageService) -> None:
    ready(page)
    classify(page, "one\n\n two\n")
    assert service.requests_to(CLASSIFY)[0].texts == ["one", " two"]
    assert "same label for 0 of 2 texts" in page.inner_text("#answer")
    assert "1. good, in context bad one" in page.inner_text(".texts")
    page.click("#by-line")
    page.click("#with-icl")
    with page.expect_response(f"**{CLASSIFY}/*"):
        classify(page, "three")
    assert msgspec.json.decode(service.requests_to(CLASSIFY)[2].body) == {
        "input": "one\n\n two\nthree",
        "method": "adapter",
    }


def test_many_labels_are_shown_when_asked_for(page: "Page", service: PageService) -> None:
    shares = {f"label {index:02}": (30 - index) / 465 for index in range(30)}
    service.tasks = [info("intent", list(shares))]
    service.shares = {"adapter": shares, "icl": shares}
    ready(page)
    classify(page, "Where is my card?")
    shown = page.locator("#answer tr:has(.bar):visible")
    assert shown.count() == 12
    page.focus("#answer button")
    page.keyboard.press("Enter")
    assert shown.count() == 30
    assert page.evaluate("document.activeElement.innerText").startswith("label 12")  # the first that was not shown


def test_what_nobody_has_opened_is_not_drawn(page: "Page", service: PageService) -> None:
    """A request may have 256 texts, and a task hundreds of labels: seconds, in which the page does not answer."""
    shares = {f"label {index:03}": (150 - index) / 11325 for index in range(150)}
    service.tasks = [info("intent", list(shares))]
    service.shares = {"adapter": shares, "icl": shares}
    ready(page)
    page.fill("#texts", "\n".join(f"text {index}" for index in range(100)))
    classify(page, "")
    assert page.locator("#answer *").count() < 1000
    page.click(".texts details:nth-child(3) summary")
    page.locator(".texts .bar").nth(23).wait_for()
    assert page.locator(".texts tr:has(.bar):visible").count() == 12


def test_what_a_reader_opened_stays_so_when_the_next_method_answers(page: "Page", service: PageService) -> None:
    shares = {f"label {index:02}": (30 - index) / 465 for index in range(30)}
    service.tasks = [info("intent", list(shares))]
    service.shares = {"adapter": shares, "icl": shares}
    ready(page)
    held: list[Route] = []
    page.route(f"**{CLASSIFY}/*", lambda route: held.append(route) if "icl" in _sent(route) else route.continue_())
    standing = "document.activeElement.innerText.trim()"
    for texts, opened in ((6, [2]), (3, [0, 2]), (1, [])):  # few are open from the start: here one is closed
        page.fill("#texts", "\n".join(f"text {index}" for index in range(texts)))
        with page.expect_request(lambda request: "icl" in (request.post_data or "")):
            page.click("#ask button.first")
        last = page.locator("#answer" if texts == 1 else ".texts details:nth-child(3)")
        if texts > 1:
            page.click(f".texts details:nth-child({3 if texts == 6 else 2}) summary")
        last.get_by_role("button", name="All 30 labels").press("Enter")
        assert page.evaluate(standing).startswith("label 12")
        if texts > 1:
            last.locator("summary").focus()
        held.pop().continue_()
        last.get_by_text("In context").wait_for()
        are_open = page.locator(".texts details").evaluate_all("all => all.map(one => one.open)")
        assert [index for index, is_open in enumerate(are_open) if is_open] == opened
        assert last.locator("tr:has(.bar):visible").count() == 30
        assert page.evaluate(standing).startswith("3. label 00 text 2" if texts > 1 else "label 12")


def test_a_reason_can_be_copied_while_the_page_looks_again(page: "Page", service: PageService) -> None:
    service.refused = [Refused(path="broken", reason="its weights are not those that its card names")]
    ready(page)
    page.click("#refused summary")
    page.locator("#refused td").last.select_text()
    poll(page)
    poll(page)
    assert page.evaluate("getSelection().toString()") == service.refused[0].reason
    service.refused = [Refused(path="broken", reason="no weights")]
    poll(page)
    wait_for_text(page, "#refused tbody", re.compile("no weights"))


def test_texts_from_right_to_left_stand_beside_their_labels(page: "Page", service: PageService) -> None:
    label, text = "\u05d8\u05d5\u05d1", "\u0645\u0631\u062d\u0628\u0627"
    service.shares = {method: {label: 0.75, "bad": 0.25} for method in MOODS}
    ready(page)
    page.fill("#texts", f"{text}\nbad")
    classify(page, "")
    first = page.locator(".texts summary").first
    boxes = [first.get_by_text(words, exact=True).bounding_box() for words in (label, text)]
    assert boxes[0] and boxes[1] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    direction = "node => getComputedStyle(node).direction"
    page.fill("#texts", text)
    assert page.locator("#texts").evaluate(direction) == "rtl"
    with page.expect_response(f"**{CLASSIFY}/*"):
        classify(page, "")
    assert page.locator("#answer > .cut").evaluate(direction) == "rtl"


def test_texts_and_labels_are_never_html(page: "Page", service: PageService) -> None:
    service.tasks = [info(f"task{HOSTILE}", [HOSTILE, "good"], versions=[HOSTILE], adapter=HOSTILE)]
    service.refused = [Refused(path=HOSTILE, reason=HOSTILE)]
    service.shares = {method: {HOSTILE: 0.75, "good": 0.25} for method in MOODS}
    contains_it = re.compile(re.escape(HOSTILE))
    ready(page)
    classify(page, HOSTILE)
    assert HOSTILE in page.inner_text("#answer .cut")
    assert HOSTILE in page.inner_text("#answer table")
    assert HOSTILE in page.inner_text("#said")
    classify(page, f"\n{HOSTILE}")
    wait_for_text(page, ".texts", re.compile(f"{re.escape(HOSTILE)}[^$]*{re.escape(HOSTILE)}"))
    service.faults[CLASSIFY] = refusal(400, message=HOSTILE)
    page.click("#ask button.first")
    wait_for_text(page, "#answer .fault >> nth=0", contains_it)
    service.faults["/v1/tasks"] = refusal(500, message=HOSTILE)
    poll(page)
    wait_for_text(page, "#state", contains_it)
    assert page.evaluate("[document.images.length, window.hurt === undefined]") == [0, True]


def test_a_text_generation_task_shows_what_is_written_for_each_text(page: "Page", service: PageService) -> None:
    service.tasks.append(info("facts", [], kind="generation", student="facts-2", methods=["student"]))
    ready(page)
    page.click("#tasks tr:nth-child(3) input")
    assert cells(page, "#tasks tbody tr")[2][1] == "none: it writes texts"
    assert page.inner_text("#ask button.first") == page.inner_text("#ask-title") == "Write"
    assert page.locator("#ask .line label:visible").all_inner_texts() == ["One text per line", "Student"]
    classify(page, "rome <b>\noslo")
    (request,) = service.requests_to("/v1/generate")
    assert msgspec.json.decode(request.body) == {"input": ["rome <b>", "oslo"], "method": "student"}
    assert page.locator(".written .out").all_inner_texts() == ["About rome <b>.", "About oslo."]
    assert "Cut at the most tokens" in page.inner_text("#answer") and service.requests_to(CLASSIFY) == []
    assert f"curl '{service.url}/v1/generate/facts' -H" in (page.text_content("#curl") or "")


def _sent(route: "Route") -> str:
    return route.request.post_data or ""

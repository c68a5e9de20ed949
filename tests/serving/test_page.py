"""The page at ``/``, in a real browser, against a fake server."""

import re
import shutil
from collections.abc import Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from fourshot.serving.answers import JSON
from fourshot.serving.api import Classified, ClassifyResponse, Refused, TaskInfo, TaskList, Usage
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.routes import PAGE, PAGE_HEADERS
from tests.serving.fake_server import FakeServer, Received, Reply, refusal, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: chromium)")

NONE = "\u2013"  # stands where there is no number
HOSTILE = "<img src=x onerror=window.hurt=1>"
MOODS = {"adapter": {"bad": 0.0625, "good": 0.9375}, "icl": {"bad": 0.625, "good": 0.375}}
POLL_MS = 2000  # how often the page looks at the service
CLASSIFY = "/v1/classify"


class PageService(FakeServer):
    """What the page talks to. The attributes say what it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = [
            info("mood", ["bad", "good"], versions=["mood-2", "mood-1"], pinned=True),
            info("topic", ["art", "law", "war"], methods=["adapter"]),
        ]
        self.refused: list[Refused] = []
        self.metrics_registry = CollectorRegistry()
        self.metrics = Metrics(self.metrics_registry)
        self.shares: dict[str, dict[str, float]] = MOODS  # by method
        self.key = ""
        self.faults: dict[str, Reply] = {}  # by start of a path

    def asked(self, start: str) -> list[Received]:
        return [request for request in self.received if request.path.startswith(start)]

    def usual(self, request: Received) -> Reply:
        if request.path == "/":
            page = resources.files("fourshot.serving.app").joinpath(PAGE).read_bytes()
            return Reply(200, {**PAGE_HEADERS, "Content-Type": "text/html; charset=utf-8"}, page)
        if self.key and request.key != self.key:
            return refusal(401, message="Give a key that is known here.")
        for start, fault in self.faults.items():
            if request.path.startswith(start):
                return fault
        if request.path == "/metrics":
            return Reply(200, {"Content-Type": "text/plain"}, generate_latest(self.metrics_registry))
        answer = (
            self._classified(request)
            if request.body
            else TaskList(base_model="tiny", tasks=self.tasks, refused=self.refused)
        )
        return Reply(200, {"Content-Type": JSON}, msgspec.json.encode(answer))

    def _classified(self, request: Received) -> ClassifyResponse:
        shares = self.shares[request.method or "adapter"]
        best = max(shares, key=lambda label: shares[label])
        result = Classified(
            label=best,
            probability=shares[best],
            probabilities=shares,
            prompt_tokens=40,
            cached_tokens=32,
            queue_ms=1.25,
            model_ms=20.5,
        )
        return ClassifyResponse(
            task=request.path.rsplit("/", 1)[1],
            method="icl" if request.method == "icl" else "adapter",
            adapter="" if request.method == "icl" else "mood-2",
            results=[result] * len(request.texts),
            usage=Usage(prompt_tokens=40, cached_tokens=32, completion_tokens=1, total_tokens=41),
            total_ms=23.75,
        )


def info(task: str, labels: list[str], **more: Any) -> TaskInfo:
    usual: dict[str, Any] = {"adapter": f"{task}-2", "versions": [f"{task}-2"], "pinned": False}
    return TaskInfo(task=task, labels=labels, **{**usual, "methods": ["adapter", "icl"], **more})


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def service() -> Iterator[PageService]:
    with served(PageService()) as server:
        yield server


@pytest.fixture
def page(browser: "Browser", service: PageService, request: pytest.FixtureRequest) -> Iterator["Page"]:
    """A window of its own, with a clock that a test can turn on. Whatever a test does, no script may fail."""
    look = getattr(request, "param", {"viewport": {"width": 1400, "height": 800}})
    with browser.new_context(base_url=service.url, **look) as context:
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.clock.install()
        faults: list[Exception] = []
        page.on("pageerror", lambda fault: faults.append(fault))
        yield page
        assert not faults


def ready(page: "Page") -> None:
    page.goto("/")
    wait_for_text(page, "#state", "Ready")


def classify(page: "Page", text: str) -> None:
    page.locator("#texts").press_sequentially(text)
    page.click("#ask button.first")
    wait_for_text(page, "#said", re.compile("^(?!None yet|.*Asking)."))


def poll(page: "Page") -> None:
    """Until the page has looked at the service once more."""
    with page.expect_response(lambda response: "/v1/tasks" in response.url):
        page.clock.run_for(POLL_MS)


def wait_for_text(page: "Page", selector: str, text: str | re.Pattern[str]) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(text, use_inner_text=True)


def cells(page: "Page", selector: str) -> list[list[str]]:
    """What the rows of a table say."""
    script = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    rows: list[list[str]] = page.locator(selector).evaluate_all(script)
    return rows


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
    assert len(service.asked("/metrics")) == 1  # a key that may not read it now may not in two seconds


def test_both_methods_are_asked_and_their_bars_are_the_answers(page: "Page", service: PageService) -> None:
    ready(page)
    classify(page, "Not for me.")
    asked = service.asked(CLASSIFY)
    assert [request.path for request in asked] == ["/v1/classify/mood"] * 2
    assert [msgspec.json.decode(request.body) for request in asked] == [
        {"input": "Not for me.", "method": "adapter"},
        {"input": "Not for me.", "method": "icl"},
    ]
    assert page.inner_text("#said") == "Task mood. Adapter: good (93.8 %). In context: bad (62.5 %)."
    fill = "b.querySelector('i').offsetWidth / b.querySelector('div').clientWidth"
    bars = page.locator(".bar").evaluate_all(
        f"bars => bars.map(b => [b.className, b.title, {fill}, b.innerText.trim()])"
    )
    wanted = [("adapter", 0.9375), ("icl", 0.375), ("adapter", 0.0625), ("icl", 0.625)]
    for (method, share), (look, title, filled, label) in zip(wanted, bars, strict=True):
        assert (look, title, label) == (f"bar {method}", str(share), f"{100 * share + 1e-9:.1f} %")
        assert filled == pytest.approx(share, abs=0.01)
    rows = {row[0]: row[1:] for row in cells(page, "#answer tbody tr")}
    assert rows["total_ms"] == ["23.8", "23.8"]
    assert rows["queue_ms"] == ["1.3", "1.3"]
    assert rows["model_ms"] == ["20.5", "20.5"]
    assert rows["prompt tokens"] == ["40", "40"]
    assert rows["of them cached"] == ["32", "32"]


def test_a_task_without_examples_is_not_asked_in_context(page: "Page", service: PageService) -> None:
    service.shares = {"adapter": {"art": 0.25, "law": 0.5, "war": 0.25}}
    ready(page)
    page.click("#tasks tr:nth-child(2) input")
    classify(page, "The court is adjourned.")
    assert [request.path for request in service.asked(CLASSIFY)] == ["/v1/classify/topic"]
    assert "its card holds no examples" in page.inner_text("#answer")
    assert "law (50.0 %)" in page.inner_text("#said")


def test_every_line_is_a_text_unless_switched_off(page: "Page", service: PageService) -> None:
    ready(page)
    classify(page, "one\n\n two\n")
    assert service.asked(CLASSIFY)[0].texts == ["one", " two"]
    assert "same label for 0 of 2 texts" in page.inner_text("#answer")
    assert "1. good, in context bad one" in page.inner_text(".texts")
    page.click("#by-line")
    page.click("#with-icl")
    with page.expect_response(f"**{CLASSIFY}/*"):
        classify(page, "three")
    assert msgspec.json.decode(service.asked(CLASSIFY)[2].body) == {
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
    page.click("#answer button")
    assert shown.count() == 30


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


def test_a_key_is_asked_for_sent_and_forgotten(page: "Page", service: PageService) -> None:
    service.key = "fs-right"
    page.goto("/")
    page.wait_for_selector("#key")
    assert page.evaluate("[document.activeElement.id, document.activeElement.type]") == ["secret", "password"]
    wait_for_text(page, "#key-why", "The service asks for one.")
    page.keyboard.type("fs-wrong\n")
    wait_for_text(page, "#key-why", re.compile("not known"))
    assert service.asked("/v1/tasks")[-1].key == "fs-wrong"
    page.keyboard.type("fs-right\n")
    wait_for_text(page, "#state", "Ready")
    assert page.is_hidden("#key")
    service.received.clear()
    classify(page, "Not for me.")
    poll(page)
    assert {request.key for request in service.received} == {"fs-right"}
    kept = "[Object.values(sessionStorage), localStorage.length, document.cookie, location.href.includes('right')]"
    assert page.evaluate(kept) == [["fs-right"], 0, "", False]
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
    assert page.inner_text("#answer .note") == "Too busy: 12 texts wait. Ask again in 7 s."
    assert len(service.asked(CLASSIFY)) == 1  # the second method is not asked of a service that is too busy
    with page.expect_response(f"**{CLASSIFY}/*"):
        page.click("#ask button.first")
    assert len(service.asked(CLASSIFY)) == 2


def test_nothing_is_sent_without_a_text(page: "Page", service: PageService) -> None:
    ready(page)
    page.click("#ask button.first")
    assert page.inner_text("#fault") == "Write a text first."
    assert page.evaluate("document.activeElement.id") == "texts"
    assert service.asked(CLASSIFY) == []


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
    asked: set[str] = set()
    violations: list[str] = []
    page.on("request", lambda request: asked.add(request.url))
    page.on("console", lambda message: violations.append(message.text))
    ready(page)
    classify(page, "Not for me.")
    routes = ("/", "/v1/tasks?all=1", "/metrics", "/v1/classify/mood")
    assert {url for url in asked if not url.startswith("data:")} == {service.url + route for route in routes}
    violations.clear()
    with served(PageService()) as other:  # even a script that got in could tell nobody
        sent = "url => fetch(url).then(() => 'sent', (error) => error.name)"
        assert page.evaluate(sent, f"{other.url}/metrics") == "TypeError"
        add = """url => new Promise((done) => {
            const made = new Image();
            made.onload = () => done('loaded'); made.onerror = () => done('blocked');
            made.src = url; document.body.append(made);
        })"""
        assert page.evaluate(add, f"{other.url}/x.png") == "blocked"
        assert other.received == []
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

"""The page at ``/``, in a real browser, against a service whose answers are made by hand."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, NamedTuple

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from fourshot.serving.api import (
    Classified,
    ClassifyRequest,
    ClassifyResponse,
    ErrorAnswer,
    Fault,
    Refused,
    TaskInfo,
    TaskList,
    Usage,
)
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.plugin import PAGE, PAGE_HEADERS
from tests.serving.browser import CONTROL, DOWN, ENTER, TAB, Browser, missing, wait_for

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

NONE = "\u2013"  # stands where there is no number
HOSTILE = "<img src=x onerror=window.hurt=1>"
MOODS = {"adapter": {"bad": 0.0625, "good": 0.9375}, "icl": {"bad": 0.625, "good": 0.375}}


class Seen(NamedTuple):
    """A request that came."""

    path: str
    key: str
    body: bytes


class Service:
    """What the page talks to. The attributes say what it answers; ``seen`` is what it was asked."""

    def __init__(self) -> None:
        self.tasks = [
            info("mood", ["bad", "good"], versions=["mood-2", "mood-1"], pinned=True),
            info("topic", ["art", "law", "war"], methods=["adapter"]),
        ]
        self.refused: list[Refused] = []
        self.metrics_registry = CollectorRegistry()
        self.metrics = Metrics(self.metrics_registry)
        self.shares: dict[str, dict[str, float]] = MOODS  # by method
        self.key = ""
        self.faults: dict[str, tuple[int, str, int]] = {}  # by start of a path: code, message, when to come back
        self.seen: list[Seen] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(b"")

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers["Content-Length"])))

            def _answer(self, body: bytes) -> None:
                key = self.headers.get("Authorization", "").removeprefix("Bearer ")
                code, headers, answer = service.answer(Seen(self.path, key, body))
                self.send_response(code)
                for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def asked(self, start: str) -> list[Seen]:
        return [one for one in self.seen if one.path.startswith(start)]

    def answer(self, seen: Seen) -> tuple[int, dict[str, str], bytes]:
        self.seen.append(seen)
        if seen.path == "/":
            page = resources.files("fourshot.serving.app").joinpath(PAGE).read_bytes()
            return 200, {**PAGE_HEADERS, "Content-Type": "text/html; charset=utf-8"}, page
        fault = next((one for start, one in self.faults.items() if seen.path.startswith(start)), None)
        if self.key and seen.key != self.key:
            fault = (401, "Give a key that is known here.", 0)
        if fault:
            code, message, retry = fault
            refusal = ErrorAnswer(error=Fault(message=message, type="fault", code=code))
            return code, {"Retry-After": str(retry)} if retry else {}, msgspec.json.encode(refusal)
        if seen.path == "/metrics":
            return 200, {"Content-Type": "text/plain"}, generate_latest(self.metrics_registry)
        told = (
            self._classified(seen) if seen.body else TaskList(base_model="tiny", tasks=self.tasks, refused=self.refused)
        )
        return 200, {"Content-Type": "application/json"}, msgspec.json.encode(told)

    def _classified(self, seen: Seen) -> ClassifyResponse:
        request = msgspec.json.decode(seen.body, type=ClassifyRequest)
        texts = [request.input] if isinstance(request.input, str) else request.input
        method = request.method or "adapter"
        shares = self.shares[method]
        best = max(shares, key=lambda label: shares[label])
        one = Classified(
            label=best,
            probability=shares[best],
            probabilities=shares,
            prompt_tokens=40,
            cached_tokens=32,
            queue_ms=1.25,
            model_ms=20.5,
        )
        return ClassifyResponse(
            task=seen.path.rsplit("/", 1)[1],
            method=method,
            adapter="mood-2" if method == "adapter" else "",
            results=[one] * len(texts),
            usage=Usage(prompt_tokens=40, cached_tokens=32, completion_tokens=1, total_tokens=41),
            total_ms=23.75,
        )


def info(task: str, labels: list[str], **more: Any) -> TaskInfo:
    told: dict[str, Any] = {"adapter": f"{task}-2", "versions": [f"{task}-2"], "pinned": False}
    return TaskInfo(task=task, labels=labels, **{**told, "methods": ["adapter", "icl"], **more})


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """Whatever a test does, no script of the page may fail."""
    chromium.look(1400)
    chromium.log("browser")
    chromium.log("performance")
    yield chromium
    faults = [one["message"] for one in chromium.log("browser") if one["source"] == "javascript"]
    assert not faults


@pytest.fixture
def service(browser: Browser) -> Iterator[Service]:
    made = Service()
    yield made
    browser.open("about:blank")  # it asks no more
    made.close()


def ready(browser: Browser, service: Service) -> None:
    browser.open(service.address)
    wait_for(lambda: browser.text("#state") == "Ready")


def classify(browser: Browser, text: str) -> None:
    browser.type("#texts", text)
    browser.click("#ask button.first")
    wait_for(lambda: browser.text("#said") not in ("", "None yet.") and "Asking" not in browser.text("#said"))


def cells(browser: Browser, selector: str) -> list[list[str]]:
    """What the rows of a table say."""
    script = "return [...document.querySelectorAll(arguments[0])].map(r => [...r.cells].map(c => c.innerText.trim()))"
    rows: list[list[str]] = browser.run(script, selector)
    return rows


def test_the_tasks_are_listed(browser: Browser, service: Service) -> None:
    ready(browser, service)
    mood, topic = cells(browser, "#tasks tbody tr")
    assert mood[:4] == ["mood", "2: bad, good", "mood-2\npinned, 2 versions", "adapter, icl"]
    assert topic[:4] == ["topic", "3: art, law, war", "topic-2", "adapter"]
    assert browser.text("#base") == "tiny"
    assert browser.text("#refused") == ""  # nothing is refused, so nothing is said


def test_what_is_refused_is_told_with_its_reason(browser: Browser, service: Service) -> None:
    service.refused = [Refused(path="old-1", reason="It is of another base model.")]
    ready(browser, service)
    assert browser.text("#refused") == "Not served: 1"
    browser.click("#refused summary")
    assert cells(browser, "#refused tbody tr") == [["old-1", "It is of another base model."]]


def test_load_is_that_of_the_last_seconds(browser: Browser, service: Service) -> None:
    for _ in range(1000):  # before the page looked: not its business
        service.metrics.latency.labels("mood", "adapter").observe(4.0)
    ready(browser, service)
    assert cells(browser, "#tasks tbody tr")[0][4:] == [NONE, "0", NONE, NONE]
    for method in ("adapter", "icl"):
        for _ in range(50):
            service.metrics.latency.labels("mood", method).observe(0.03)
    service.tasks[0] = msgspec.structs.replace(service.tasks[0], requests=100, in_flight=3)
    wait_for(lambda: cells(browser, "#tasks tbody tr")[0][5] == "3")
    rate, _, p50, p95 = cells(browser, "#tasks tbody tr")[0][4:]
    assert 20 < float(rate) <= 50  # 100 requests within two seconds, or a little more
    assert (p50, p95) == ("30 ms", "39 ms")  # all of them lie between 20 and 40 ms
    assert cells(browser, "#tasks tbody tr")[1][4:] == ["0", "0", NONE, NONE]


def test_without_metrics_the_tasks_say_what_they_can(browser: Browser, service: Service) -> None:
    service.faults["/metrics"] = (403, "This key is for tasks only.", 0)
    ready(browser, service)
    wait_for(lambda: cells(browser, "#tasks tbody tr")[0][4:] == ["0", "0", NONE, NONE])
    assert browser.text("#load") == "No latencies: /metrics could not be read."
    assert len(service.asked("/metrics")) == 1  # a key that may not read it now may not in two seconds


def test_both_methods_are_asked_and_their_bars_are_the_answers(browser: Browser, service: Service) -> None:
    ready(browser, service)
    classify(browser, "Not for me.")
    asked = service.asked("/v1/classify")
    assert [one.path for one in asked] == ["/v1/classify/mood"] * 2
    assert [msgspec.json.decode(one.body) for one in asked] == [
        {"input": "Not for me.", "method": "adapter"},
        {"input": "Not for me.", "method": "icl"},
    ]
    assert browser.text("#said") == "Task mood. Adapter: good (93.8 %). In context: bad (62.5 %)."
    widths = "return [...document.querySelectorAll('.bar')].map(b => [b.className, b.title, %s, b.innerText.trim()])"
    fill = "(b.querySelector('i').offsetWidth / b.querySelector('div').clientWidth)"
    wanted = [("adapter", 0.9375), ("icl", 0.375), ("adapter", 0.0625), ("icl", 0.625)]
    for (method, share), (look, title, filled, said) in zip(wanted, browser.run(widths % fill), strict=True):
        assert (look, title, said) == (f"bar {method}", str(share), f"{100 * share + 1e-9:.1f} %")
        assert filled == pytest.approx(share, abs=0.01)
    told = {row[0]: row[1:] for row in cells(browser, "#answer tbody tr")}
    assert told["total_ms"] == ["23.8", "23.8"]
    assert told["queue_ms"] == ["1.3", "1.3"]
    assert told["model_ms"] == ["20.5", "20.5"]
    assert told["prompt tokens"] == ["40", "40"]
    assert told["of them cached"] == ["32", "32"]


def test_a_task_without_examples_is_not_asked_in_context(browser: Browser, service: Service) -> None:
    service.shares = {"adapter": {"art": 0.25, "law": 0.5, "war": 0.25}}
    ready(browser, service)
    browser.click("#tasks tr:nth-child(2) input")
    classify(browser, "The court is adjourned.")
    assert [one.path for one in service.asked("/v1/classify")] == ["/v1/classify/topic"]
    assert "its card holds no examples" in browser.text("#answer")
    assert "law (50.0 %)" in browser.text("#said")


def test_every_line_is_a_text_unless_told_otherwise(browser: Browser, service: Service) -> None:
    ready(browser, service)
    classify(browser, "one\n\n two\n")
    assert msgspec.json.decode(service.asked("/v1/classify")[0].body)["input"] == ["one", " two"]
    assert "same label for 0 of 2 texts" in browser.text("#answer")
    assert "1. good, in context bad one" in browser.text(".texts")
    browser.click("#by-line")
    browser.click("#with-icl")
    classify(browser, "three")
    wait_for(lambda: len(service.asked("/v1/classify")) == 3)
    assert msgspec.json.decode(service.asked("/v1/classify")[2].body) == {
        "input": "one\n\n two\nthree",
        "method": "adapter",
    }


def test_many_labels_are_shown_when_asked_for(browser: Browser, service: Service) -> None:
    shares = {f"label {index:02}": (30 - index) / 465 for index in range(30)}
    service.tasks = [info("intent", list(shares))]
    service.shares = {"adapter": shares, "icl": shares}
    ready(browser, service)
    classify(browser, "Where is my card?")
    shown = "return [...document.querySelectorAll('#answer tr:has(.bar)')].filter(r => r.offsetHeight).length"
    assert browser.run(shown) == 12
    browser.click("#answer button")
    assert browser.run(shown) == 30


def test_texts_and_labels_are_never_html(browser: Browser, service: Service) -> None:
    service.tasks = [info(f"task{HOSTILE}", [HOSTILE, "good"], versions=[HOSTILE], adapter=HOSTILE)]
    service.refused = [Refused(path=HOSTILE, reason=HOSTILE)]
    service.shares = {method: {HOSTILE: 0.75, "good": 0.25} for method in MOODS}
    ready(browser, service)
    classify(browser, HOSTILE)
    assert HOSTILE in browser.text("#answer .cut")
    assert HOSTILE in browser.text("#answer table")
    assert HOSTILE in browser.text("#said")
    classify(browser, f"\n{HOSTILE}")
    wait_for(lambda: browser.text(".texts").count(HOSTILE) >= 2)
    service.faults["/v1/classify"] = (400, HOSTILE, 0)
    classify(browser, "more")
    wait_for(lambda: HOSTILE in browser.text("#answer .fault"))
    service.faults["/v1/tasks"] = (500, HOSTILE, 0)
    wait_for(lambda: HOSTILE in browser.text("#state"))
    assert browser.run("return [document.images.length, window.hurt === undefined]") == [0, True]


def test_a_key_is_asked_for_sent_and_forgotten(browser: Browser, service: Service) -> None:
    service.key = "fs-right"
    browser.open(service.address)
    wait_for(lambda: browser.text("#key") != "")
    assert browser.run("return [document.activeElement.id, document.activeElement.type]") == ["secret", "password"]
    assert browser.text("#key-why") == "The service asks for one."
    browser.press("fs-wrong" + ENTER)
    wait_for(lambda: "not known" in browser.text("#key-why"))
    assert service.asked("/v1/tasks")[-1].key == "fs-wrong"
    browser.press("fs-right" + ENTER)
    wait_for(lambda: browser.text("#state") == "Ready")
    assert browser.text("#key") == ""
    service.seen.clear()
    classify(browser, "Not for me.")
    wait_for(lambda: service.asked("/v1/tasks") and service.asked("/metrics"))
    assert {one.key for one in service.seen} == {"fs-right"}
    kept = (
        "return [Object.values(sessionStorage), localStorage.length, document.cookie, location.href.includes('right')]"
    )
    assert browser.run(kept) == [["fs-right"], 0, "", False]
    assert "fs-right" not in browser.run("return document.documentElement.outerHTML")
    browser.click("#forget")
    wait_for(lambda: browser.text("#key") != "")
    assert browser.run("return sessionStorage.length") == 0


def test_a_key_that_is_taken_away_is_asked_for_again(browser: Browser, service: Service) -> None:
    ready(browser, service)
    browser.run("sessionStorage.setItem('fourshot-key', 'fs-old')")
    service.key = "fs-new"
    classify(browser, "Not for me.")
    assert browser.text("#answer .note") == "The service asks for an API key."
    time.sleep(2.5)  # also once the tasks were asked for, without a key
    assert "not known" in browser.text("#key-why")


def test_without_a_key_the_page_does_not_keep_asking(browser: Browser, service: Service) -> None:
    service.key = "fs-right"
    browser.open(service.address)
    wait_for(lambda: browser.text("#key") != "")
    service.seen.clear()
    time.sleep(2.5)
    assert service.seen == []


def test_errors_are_told_in_words(browser: Browser, service: Service) -> None:
    ready(browser, service)
    service.faults["/v1/classify"] = (429, "Too busy: 12 texts wait.", 7)
    classify(browser, "Not for me.")
    assert browser.text("#answer .note") == "Too busy: 12 texts wait. Ask again in 7 s."
    assert len(service.asked("/v1/classify")) == 1  # the second method is not asked of a service that is too busy
    browser.click("#ask button.first")
    wait_for(lambda: len(service.asked("/v1/classify")) == 2)


def test_nothing_is_sent_without_a_text(browser: Browser, service: Service) -> None:
    ready(browser, service)
    browser.click("#ask button.first")
    assert browser.text("#fault") == "Write a text first."
    assert browser.run("return document.activeElement.id") == "texts"
    assert service.asked("/v1/classify") == []


def test_the_page_waits_for_a_service_that_starts_again(browser: Browser, service: Service) -> None:
    service.tasks[0] = msgspec.structs.replace(service.tasks[0], requests=100)
    ready(browser, service)
    service.faults["/"] = (503, "The server is restarting.", 5)
    wait_for(lambda: browser.text("#state").startswith("The server is restarting. Looking again"))
    assert cells(browser, "#tasks tbody tr")[0][4:] == [NONE] * 4
    service.tasks[0] = msgspec.structs.replace(service.tasks[0], requests=0)
    del service.faults["/"]
    wait_for(lambda: browser.text("#state") == "Ready")
    wait_for(lambda: cells(browser, "#tasks tbody tr")[0][4] == "0")


def test_a_hidden_tab_asks_nothing(browser: Browser, service: Service) -> None:
    ready(browser, service)
    hide = "Object.defineProperty(document, 'hidden', { configurable: true, value: arguments[0] });"
    turn = f"{hide} document.dispatchEvent(new Event('visibilitychange'))"
    browser.run(turn, True)
    time.sleep(0.2)
    service.seen.clear()
    time.sleep(2.5)
    assert service.seen == []
    browser.run(turn, False)
    wait_for(lambda: service.asked("/v1/tasks"), 1)


def test_nothing_leaves_the_origin(browser: Browser, service: Service) -> None:
    ready(browser, service)
    classify(browser, "Not for me.")
    events = [one for one in browser.log("performance") if one["method"] == "Network.requestWillBeSent"]
    asked = {one["params"]["request"]["url"] for one in events} - {"about:blank"}
    routes = ("/", "/v1/tasks?all=1", "/metrics", "/v1/classify/mood")
    assert {url for url in asked if not url.startswith("data:")} == {service.address + route for route in routes}
    other = Service()  # even a script that got in could tell nobody
    try:
        sent = "return fetch(arguments[0]).then(() => 'sent', (error) => error.name)"
        assert browser.run(sent, f"{other.address}/metrics") == "TypeError"
        add = "const made = new Image(); made.src = arguments[0] + '/x.png'; document.body.append(made)"
        browser.run(add, other.address)
        time.sleep(0.3)
        assert other.seen == []
        told = [one["message"] for one in browser.log("browser")]
        assert sum("violates the following Content Security Policy" in one for one in told) == 2
    finally:
        other.close()


def test_the_page_works_without_a_mouse(browser: Browser, service: Service) -> None:
    ready(browser, service)
    browser.press(TAB + DOWN)
    assert browser.text("#chosen") == "topic"
    browser.press(TAB)
    service.shares = {"adapter": {"art": 1.0, "law": 0.0, "war": 0.0}}
    browser.press("A painting." + CONTROL + ENTER)
    wait_for(lambda: "art (100.0 %)" in browser.text("#said"))
    browser.open(browser.run("return location.href"))  # the address remembers the task
    wait_for(lambda: browser.text("#chosen") == "topic")
    unnamed = "return [...document.querySelectorAll('input, textarea')].filter(i => !i.labels.length).map(i => i.id)"
    assert browser.run(unnamed) == []


def test_one_task_of_many_is_found(browser: Browser, service: Service) -> None:
    service.tasks = [info(f"task-{index:03}", ["yes", "no" if index else "maybe"]) for index in range(300)]
    ready(browser, service)
    shown = "return [...document.querySelectorAll('#tasks tbody tr')].filter(r => r.offsetHeight).length"
    assert browser.run(shown) == 300
    browser.type("#filter", "MAYBE")
    assert browser.run(shown) == 1
    assert browser.run("return document.querySelector('.scroll').offsetHeight") < 600
    browser.press("\b" * len("MAYBE") + "sk-007" + TAB + " ")
    assert browser.text("#chosen") == "task-007"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1400])
def test_it_fits_and_can_be_read(browser: Browser, service: Service, width: int, dark: bool) -> None:
    service.tasks = [info("t" * 60, ["l" * 80, "good"], adapter="a" * 60)]
    service.shares = {method: {"l" * 80: 0.25, "good": 0.75} for method in MOODS}
    service.refused = [Refused(path="p" * 90, reason="It is broken.")]
    browser.look(width, dark=dark)
    ready(browser, service)
    browser.click("#refused summary")
    browser.click("#ask summary")
    classify(browser, "w" * 300 + "\n" + "good")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    faint = browser.run(FAINT_TEXTS)
    assert faint == []


# Texts whose contrast with their ground is below 4.5. Source: WCAG 2.2, success criterion 1.4.3.
FAINT_TEXTS = """
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
"""

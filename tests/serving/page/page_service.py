"""A fake service for the page, and the actions of a user on it."""

import re
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from fourshot.serving.answers import JSON
from fourshot.serving.api import (
    Classified,
    ClassifyResponse,
    Generated,
    GenerateResponse,
    Refused,
    TaskInfo,
    TaskList,
    Usage,
)
from fourshot.serving.app.metrics import Metrics
from fourshot.serving.app.routes import PAGE, PAGE_HEADERS
from tests.serving.fake_server import FakeServer, Received, Reply, refusal

if TYPE_CHECKING:
    from playwright.sync_api import Page

MOODS = {
    "adapter": {"bad": 0.0625, "good": 0.9375},
    "student": {"bad": 0.125, "good": 0.875},
    "icl": {"bad": 0.625, "good": 0.375},
}
POLL_MS = 2000  # interval at which the page polls the service
CLASSIFY = "/v1/classify"
GENERATE = "/v1/generate"


class PageService(FakeServer):
    """The server of the page. Its attributes determine its responses."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = [
            info("mood", ["bad", "good"], versions=["mood-2", "mood-1"], pinned=True),
            info("topic", ["art", "law", "war"], methods=["adapter"]),
        ]
        self.refused: list[Refused] = []
        self.metrics_registry = CollectorRegistry()
        self.metrics = Metrics(self.metrics_registry)
        self.shares: dict[str, dict[str, float]] = MOODS  # method -> label -> probability
        self.key = ""  # the required key; "": none
        self.faults: dict[str, Reply] = {}  # start of a path -> its response

    def requests_to(self, start: str) -> list[Received]:
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
        answer: TaskList | ClassifyResponse | GenerateResponse
        if not request.body:
            answer = TaskList(base_model="tiny", tasks=self.tasks, refused=self.refused)
        else:
            answer = self._written(request) if request.path.startswith(GENERATE) else self._classified(request)
        return Reply(200, {"Content-Type": JSON}, msgspec.json.encode(answer))

    def _written(self, request: Received) -> GenerateResponse:
        results = [
            Generated(
                text=f"About {text}.",
                finish_reason="length",
                prompt_tokens=40,
                completion_tokens=8,
                queue_ms=1.25,
                model_ms=20.5,
            )
            for text in request.texts
        ]
        usage = Usage(prompt_tokens=40, cached_tokens=0, completion_tokens=8, total_tokens=48)
        name = request.path.rsplit("/", 1)[1]
        return GenerateResponse(
            task=name, method="student", student=f"{name}-2", results=results, usage=usage, total_ms=23.75
        )

    def _classified(self, request: Received) -> ClassifyResponse:
        method: Any = request.method or "adapter"
        shares = self.shares[method]
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
            method=method,
            adapter={"icl": "", "student": "mood-s"}.get(method, "mood-2"),
            results=[result] * len(request.texts),
            usage=Usage(prompt_tokens=40, cached_tokens=32, completion_tokens=1, total_tokens=41),
            total_ms=23.75,
        )


def info(task: str, labels: list[str], **more: Any) -> TaskInfo:
    usual: dict[str, Any] = {"adapter": f"{task}-2", "versions": [f"{task}-2"], "pinned": False}
    return TaskInfo(task=task, labels=labels, **{**usual, "methods": ["adapter", "icl"], **more})


def ready(page: "Page") -> None:
    page.goto("/")
    wait_for_text(page, "#state", "Ready")


def classify(page: "Page", text: str) -> None:
    page.locator("#texts").press_sequentially(text)
    page.click("#ask button.first")
    wait_for_text(page, "#said", re.compile("^(?!None yet|.*Asking)."))


def poll(page: "Page") -> None:
    """Advance the page's clock until it has polled the service once more."""
    with page.expect_response(lambda response: "/v1/tasks" in response.url):
        page.clock.run_for(POLL_MS)


def wait_for_text(page: "Page", selector: str, text: str | re.Pattern[str]) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(text, use_inner_text=True)


def cells(page: "Page", selector: str) -> list[list[str]]:
    """Return the texts of the cells of a table's rows."""
    script = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    rows: list[list[str]] = page.locator(selector).evaluate_all(script)
    return rows

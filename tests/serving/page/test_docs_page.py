"""``/docs`` in a real browser that has no internet: drawn from what the service itself sends, also behind a prefix."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from fourshot.serving.answers import RefusalError, send_refusal
from fourshot.serving.app.keys import Keys, add_key
from fourshot.serving.fleet.supervisor import listen
from tests.serving.app_in_process import InProcess
from tests.waiting import wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@contextmanager
def answering(app: Any) -> Iterator[str]:
    """``app`` on a port of its own."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    listening = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        wait_for(lambda: server.started, "the server")
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    app = InProcess().guard

    async def below_a_prefix(scope: Any, receive: Any, send: Any) -> None:
        """As a proxy that takes its prefix off, and leads elsewhere without it."""
        cut = {"path": scope["path"].removeprefix("/llm"), "raw_path": scope["raw_path"].removeprefix(b"/llm")}
        if scope["path"].startswith(("/llm", "/docs")) or scope["path"] == "/openapi.json":
            await app({**scope, **cut}, receive, send)
        else:
            await send_refusal(send, RefusalError(404, "elsewhere", "This is another application."))

    with answering(below_a_prefix) as url:
        yield url


def test_the_page_asks_below_the_prefix_that_it_lies_at(browser: "Browser", address: str) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.goto(f"{address}/llm/")
        page.locator("#tasks tbody").get_by_text("desk").wait_for()


@pytest.mark.parametrize("path", ["/docs", "/llm/docs/"])
def test_the_documentation_is_drawn_from_the_service_alone(browser: "Browser", address: str, path: str) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(10_000)
        urls: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
        page.on("pageerror", lambda fault: complaints.append(str(fault)))
        page.goto(address + path)
        page.get_by_text("The label of one text or of many.").click()
        page.get_by_text("X-Deadline-Ms", exact=True).wait_for()
        assert all(url.startswith((address, "data:")) for url in urls)
        assert complaints == []


def test_with_keys_the_documentation_is_drawn_with_that_of_the_first_page(browser: "Browser", tmp_path: Path) -> None:
    """A browser has no way to show a key when it opens a page."""
    file = tmp_path / "keys.toml"
    key = add_key(file, "reader")
    with answering(InProcess(keys=Keys(file)).guard) as address, browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.goto(f"{address}/docs")
        page.get_by_text("asks for an API key").wait_for()
        page.get_by_role("link", name="the first page").click()
        page.fill("#secret", key)
        page.press("#secret", "Enter")
        page.locator("#tasks tbody").get_by_text("desk").wait_for()
        page.goto(f"{address}/docs")
        page.get_by_text("The label of one text or of many.").wait_for()
        assert page.get_by_text("asks for an API key").is_hidden()
        page.get_by_role("button", name="Authorize").wait_for()

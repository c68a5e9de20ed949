"""Fixtures for the page in a real browser."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.serving.fake_server import served
from tests.serving.page.page_service import PageService

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture
def service() -> Iterator[PageService]:
    with served(PageService()) as server:
        yield server


@pytest.fixture
def page(browser: "Browser", service: PageService, request: pytest.FixtureRequest) -> Iterator["Page"]:
    """A new window, with a clock that a test can advance. No script may fail in any test."""
    look = getattr(request, "param", {"viewport": {"width": 1400, "height": 800}})
    with browser.new_context(base_url=service.url, **look) as context:
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.clock.install()
        faults: list[Exception] = []
        page.on("pageerror", lambda fault: faults.append(fault))
        yield page
        assert not faults

"""A real browser for pages; a fake service, and both clients that ask it."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.serving.asker import Asker
from tests.serving.fake_server import FakeService, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")  # not longer: while it is open, a loop of asyncio runs, and no other test can run one
def browser() -> Iterator["Browser"]:
    if CHROMIUM is None:
        pytest.skip("needs chromium (Debian: chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    monkeypatch.delenv("FOURSHOT_API_KEY", raising=False)
    with served(FakeService()) as service:
        yield service


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, service: FakeService) -> Asker:
    return Asker(request.param, service.url)

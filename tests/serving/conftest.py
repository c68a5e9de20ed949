"""Fixtures: a fake service, and both clients for it."""

from collections.abc import Iterator

import pytest

from tests.serving.client_caller import ClientCaller
from tests.serving.fake_server import FakeService, served


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    monkeypatch.delenv("FOURSHOT_API_KEY", raising=False)
    with served(FakeService()) as service:
        yield service


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, service: FakeService) -> ClientCaller:
    return ClientCaller(request.param, service.url)

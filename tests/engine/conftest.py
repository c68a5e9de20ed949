"""Fixtures for the tests of child processes and forks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fourshot.engine.machine import forks


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The file for a child's output."""
    return tmp_path / "log.txt"


@pytest.fixture
def own_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fork servers for one test, which end with it."""
    own = forks._Servers()
    monkeypatch.setattr(forks, "_servers", own)
    yield
    own.end()

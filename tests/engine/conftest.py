"""Shared by the tests of child processes and their copies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fourshot.engine.machine import forks


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where a child writes what it prints."""
    return tmp_path / "log.txt"


@pytest.fixture
def own_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Servers of copies for one test alone, ended with it."""
    own = forks._Servers()
    monkeypatch.setattr(forks, "_servers", own)
    yield
    own.end()

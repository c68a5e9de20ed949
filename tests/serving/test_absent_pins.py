"""Logged once, however long it lasts: a pin of a version that is not there, and a folder that is away."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from fourshot.cli import main as cli
from fourshot.serving.models.registry import write_pins
from fourshot.serving.testing.adapters import make_adapter
from tests.serving.test_adapter_sync import DESK, Sync


def test_a_pin_of_what_is_not_there_is_listed_and_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fourshot.serving.models.base_model.stage", lambda folder, card, staging, *_: staging)
    old, new = make_adapter(tmp_path, DESK, 1), make_adapter(tmp_path, DESK, 2)
    os.utime(old / "card.json", (1000, 1000))
    sync = Sync(tmp_path)
    write_pins(tmp_path, {"desk": old.name, "no-such-task": "no-such-task-0"})
    assert sync.now() == {"desk": old.name} and sync.reasons() == {}
    shutil.rmtree(old)
    with caplog.at_level(logging.WARNING, "fourshot.serving"):
        for _ in range(2):
            assert sync.now() == {"desk": new.name}
    assert f"desk is pinned to {old.name}, which cannot be served" in sync.reasons()["pins.json"]
    assert caplog.text.count("pins.json is refused") == 1
    assert cli.main(["adapters", "list", "--adapters", str(tmp_path)]) == 0
    assert f"refused: pins.json: desk is pinned to {old.name}" in capfd.readouterr().out
    write_pins(tmp_path, {})
    assert sync.now() == {"desk": new.name} and sync.reasons() == {}


def test_a_folder_that_is_away_is_logged_once_and_takes_no_task_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fourshot.serving.models.base_model.stage", lambda folder, card, staging, *_: staging)
    (root := tmp_path / "served").mkdir()
    adapter, sync = make_adapter(root, DESK), Sync(root)
    assert sync.now() == {"desk": adapter.name}
    with caplog.at_level(logging.WARNING, "fourshot.serving"):
        for _ in range(2):
            root.rename(tmp_path / "away")
            for _ in range(2):
                assert sync.now() == {"desk": adapter.name}
            (tmp_path / "away").rename(root)
            assert sync.now() == {"desk": adapter.name}
    assert caplog.text.count("the adapters' folder cannot be read") == 2

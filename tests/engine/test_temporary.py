"""Folders of processes that were killed do not stay for ever."""

import os
import tempfile
from pathlib import Path

import pytest

from fourshot.engine.machine import temporary


def test_folders_of_processes_that_are_gone_are_removed_with_the_next_that_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = {"gone": 1 << 30, "no id": 10**20, "other": os.getppid(), "before": os.getpid(), "mine": os.getpid()}
    folders = {name: tmp_path / f"kind-{owner}-{name}" for name, owner in names.items()}
    for folder in [*folders.values(), tmp_path / "kind-x-y", tmp_path / f"other-{1 << 30}-a"]:
        folder.mkdir()
    monkeypatch.setattr(temporary, "_process_folders", {str(folders["mine"]): -1})
    new_folders = [temporary.process_folder("kind-") for _ in range(2)]
    assert {name for name, folder in folders.items() if folder.exists()} == {"other", "mine"}
    assert all(folder.is_dir() for folder in [*new_folders, tmp_path / "kind-x-y", tmp_path / f"other-{1 << 30}-a"])


def test_a_folder_in_use_is_locked_and_stays_whatever_process_ids_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a service in another container that shares the folder: its id is none here, or that of this process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary.temporary_folder("kind-") as used:
        known = temporary._process_folders.copy()
        temporary._process_folders.clear()
        temporary.sweep("kind-")
        assert used.is_dir()
        temporary._process_folders.update(known)
    assert not used.exists() and str(used) not in temporary._process_folders
    used.mkdir()
    temporary.sweep("kind-")
    assert not used.exists()

"""`fourshot adapters add`: what is told of an adapter, and what is not copied."""

import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fourshot.serving.models.adapters_folder import add_adapter
from fourshot.serving.models.registry import Registry, base_named
from fourshot.serving.testing.adapters import make_adapter, task_of
from tests.serving.random_students import make_student
from tests.serving.test_commands import root, run_command

__all__ = ("root",)  # a fixture


def test_what_is_added_beside_others_of_another_kind_is_told(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    at = ("--adapters", str(root))

    def added(folder: Path) -> str:
        code, text = run_command(capfd, "adapters", "add", str(folder), *at)
        assert code == 0
        return text

    mood = task_of("mood")
    assert "warning" not in added(make_adapter(tmp_path / "one", mood))
    assert "warning" not in added(make_adapter(tmp_path / "other", task_of("other")))
    labels = (msgspec.structs.replace(mood.labels[0], name="neither"), *mood.labels[1:])
    renamed = make_adapter(tmp_path / "renamed", msgspec.structs.replace(mood, labels=labels), seed=1)
    text = added(renamed)
    assert "warning: versions of mood there have other labels: " in text and "neither" in text
    elsewhere = make_adapter(tmp_path / "elsewhere", task_of("third"), seed=2)
    card = json.loads((elsewhere / "card.json").read_text())
    (elsewhere / "card.json").write_text(json.dumps(card | {"model_name": "another", "model_revision": "1"}))
    assert "it was trained on another (1), but the adapters there on" in added(elsewhere)


def test_who_answers_after_an_addition_is_told(tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    at = ("--adapters", str(root))
    first, second = (make_adapter(tmp_path / str(seed), task_of("mood"), seed=seed) for seed in range(2))

    def added(folder: Path) -> str:
        code, text = run_command(capfd, "adapters", "add", str(folder), *at)
        assert code == 0
        return text

    def answering() -> str:
        return Registry(root, base_named(None)).read().versions("mood")[0].name

    for folder in (first, second, first):
        assert "A running server uses it within seconds" in added(folder) and answering() == folder.name
    assert run_command(capfd, "adapters", "pin", first.name, *at)[0] == 0
    text = added(second)
    assert f"{first.name} is pinned, and is used as long as it is there. To use it: fourshot adapters" in text
    assert f"adapters pin {second.name} --adapters {root}" in text and answering() == first.name
    assert "within seconds" not in text and "within seconds" in added(first)
    assert run_command(capfd, "adapters", "unpin", "mood", *at)[0] == 0
    ahead = time.time() + 3600
    os.utime(root / first.name / "card.json", (ahead, ahead))
    text = added(second)
    assert f"{first.name} stays in use: its card is dated 2" in text and answering() == first.name
    assert "within seconds" not in text


def test_an_adapter_with_links_or_pipes_is_not_added(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a link of a stranger's adapter leads to would be copied, and a pipe never ends."""
    (tmp_path / "secret").write_text("mine")
    source = make_adapter(tmp_path / "made", task_of("mood"))
    (source / "notes").symlink_to(tmp_path / "secret")
    code, text = run_command(capfd, "adapters", "add", str(source), "--adapters", str(root))
    assert code == 2 and "notes is a link that leads out" in text and list(root.iterdir()) == []
    (source / "notes").unlink()
    os.mkfifo(source / "notes")
    code, text = run_command(capfd, "adapters", "add", str(source), "--adapters", str(root))
    assert code == 2 and "notes is neither a file nor a folder" in text and list(root.iterdir()) == []


def test_of_two_that_add_the_same_at_once_one_does_and_neither_fails(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, both, copytree = make_student(tmp_path / "made", task_of("mood")), threading.Barrier(2), shutil.copytree

    def together(*places: Any, **options: Any) -> Any:
        both.wait(10)  # neither has put its copy in place yet
        return copytree(*places, **options)

    monkeypatch.setattr("fourshot.serving.models.adapters_folder.shutil.copytree", together)
    with ThreadPoolExecutor(2) as threads:
        added = [*threads.map(lambda _: add_adapter(root, str(source))[1], range(2))]
    assert sorted(added) == [False, True]
    assert [path.name for path in root.iterdir()] == [source.name]

"""`fourshot adapters add`: what is told of an adapter, and what is not copied."""

import json
import os
from pathlib import Path

import msgspec
import pytest

from fourshot.serving.testing.adapters import make_adapter, task_of
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
    assert "warning: versions of mood there answer with other labels: " in text and "neither" in text
    elsewhere = make_adapter(tmp_path / "elsewhere", task_of("third"), seed=2)
    card = json.loads((elsewhere / "card.json").read_text())
    (elsewhere / "card.json").write_text(json.dumps(card | {"model_name": "another", "model_revision": "1"}))
    assert "it was trained on another (1), and the adapters there on" in added(elsewhere)


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

"""A remote teacher from the command line, and one who interrupts."""

import errno
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

from fourshot.cli.main import main
from fourshot.engine.errors import FourshotError
from fourshot.pipeline.distillation import annotating
from fourshot.pipeline.task import Task
from fourshot.serving.clients.remote import endpoint as endpoints
from fourshot.serving.clients.remote.kept import KeptAnswers, answers_file
from fourshot.serving.clients.remote.settings import RemoteSettings
from tests.pipeline.task_folders import write_jsonl
from tests.serving.test_remote_teacher import KEY, FakeEndpoint, endpoint, task

__all__ = ("endpoint", "task")  # fixtures


def test_the_command_forecasts_annotates_and_writes_no_key(
    endpoint: FakeEndpoint, task: Task, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "notes.jsonl", [{"text": text} for text in ("Deep snow.", "A fire.", "Thick ice.")])
    command = ["annotate", str(tmp_path / "task.toml"), "--unlabelled", str(tmp_path / "notes.jsonl")]
    command += ["--out", str(tmp_path / "out.jsonl"), "--price-in", "2", "--price-out", "8"]
    command += ["--teacher", f"{endpoint.url}/v1", "--teacher-model", "large"]
    assert main([*command, "--plan", "--json"]) == 0
    planned = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (planned["calls"], planned["asks"]) == (12, f"large at {endpoint.url}/v1") and planned["cost"] > 0
    assert endpoint.received == []
    assert main([*command, "--max-requests", "10"]) == 1
    assert "--max-requests 10 is reached" in capfd.readouterr().err
    assert main(command) == 0
    printed = capfd.readouterr()
    assert "12 requests to large at" in printed.err.splitlines()[0]
    assert "88% of 8 shots correct" in printed.out and "12 requests, cost" in printed.out
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["annotated_label"] for row in rows] == ["cold", "warm", "cold"]
    assert rows[0]["annotated_by"].startswith(f"large at {endpoint.url}/v1, ")
    contents = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(contents) > 4 and not any(KEY.encode() in content for content in contents)
    assert KEY not in printed.out + printed.err and {
        request.headers["authorization"] for request in endpoint.chat_requests
    } == {f"Bearer {KEY}"}


def test_a_kill_before_the_table_does_not_lose_what_the_teacher_cost(
    endpoint: FakeEndpoint,
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    write_jsonl(tmp_path / "notes.jsonl", [{"text": text} for text in ("Deep snow.", "A fire.", "Thick ice.")])
    command = ["annotate", str(tmp_path / "task.toml"), "--unlabelled", str(tmp_path / "notes.jsonl"), "--quiet"]
    command += ["--out", str(tmp_path / "out.jsonl"), "--teacher", f"{endpoint.url}/v1", "--teacher-model", "large"]
    with monkeypatch.context() as patched:
        patched.setattr(annotating, "place_table", killed)
        assert main(command) == 130
    asked = len(endpoint.chat_requests)
    assert main(command) == 0 and len(endpoint.chat_requests) == asked == 12
    assert "88% of 8 shots correct" in (printed := capfd.readouterr().out) and "12 requests" in printed


def test_answers_that_cannot_be_kept_are_told_with_the_place_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path / "home"))
    file = answers_file("http://host/v1", "large")
    file.mkdir(parents=True)
    with pytest.raises(FourshotError, match=r"sqlite keeps .* unable to open database file\. .* set FOURSHOT_HOME"):
        KeptAnswers("http://host/v1", "large", "work")
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(FourshotError, match=r"No space left on device\. Fix this, or set FOURSHOT_HOME"):
        KeptAnswers("http://host/v1", "large", "work")


def test_who_interrupts_at_once_has_nothing_sent(endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(futures: Sequence[Future[Any]], timeout_s: float | None = None) -> object:
        if timeout_s is not None:
            raise KeyboardInterrupt
        return wait(futures)

    monkeypatch.setattr(endpoints, "wait", interrupted)
    bodies = [{"max_tokens": 1, "messages": [{"role": "user", "content": str(number)}]} for number in range(20)]
    with endpoints.Endpoint(f"{endpoint.url}/v1", "large", RemoteSettings(concurrency=1), "work") as asking:
        asking._loop.call_soon_threadsafe(time.sleep, 0.2)  # it is busy, and comes to both at once
        with pytest.raises(KeyboardInterrupt):
            asking.ask([endpoints.CompletionRequest(route="chat", body=body) for body in bodies])
    assert endpoint.chat_requests == []

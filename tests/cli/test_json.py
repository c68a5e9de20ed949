"""What a program reads with --json: lists and numbers, and a line of type `result` or `error` at the end."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fourshot.cli import main as cli
from fourshot.serving.testing.adapters import make_adapter, task_of
from tests.serving.random_students import make_student


def lines_of(capfd: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    """All that a command that succeeds says to a program."""
    code = cli.main([*words, "--json"])
    out, error = capfd.readouterr()
    assert code == 0, error
    return [json.loads(line) for line in out.splitlines()]


def test_what_a_key_may_ask_is_a_list_and_a_number(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "keys.toml")
    lines_of(capfd, "keys", "add", file, "--name", "some", "--tasks", "a, b", "--max-concurrent", "3")
    lines_of(capfd, "keys", "add", file, "--name", "all")
    (result,) = lines_of(capfd, "keys", "list", file)
    assert result["keys"] == [
        {"name": "some", "tasks": ["a", "b"], "max_concurrent": 3},
        {"name": "all", "tasks": None, "max_concurrent": None},
    ]
    assert cli.main(["keys", "list", file]) == 0
    shown = capfd.readouterr().out
    assert "a, b" in shown and "as serve --max-concurrent" in shown and "at a time" in shown


def test_the_classes_of_a_task_are_a_list(capfd: pytest.CaptureFixture[str]) -> None:
    (result,) = lines_of(capfd, "tasks", "list")
    tasks = {task["name"]: task for task in result["tasks"]}
    assert tasks["sst2"]["classes"] == ["negative", "positive"] and tasks["webnlg"]["classes"] is None
    assert cli.main(["tasks", "list"]) == 0
    shown = capfd.readouterr().out
    assert "negative, positive" in shown and "(text generation)" in shown and " more" in shown


def test_the_accuracy_of_an_adapter_is_a_number_and_its_time_has_a_zone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = make_adapter(tmp_path, task_of("mood"))
    lines_of(capfd, "adapters", "add", "support_tickets", "--in-context", "--adapters", str(tmp_path))
    (result,) = lines_of(capfd, "adapters", "list", "--adapters", str(tmp_path))[-1:]
    adapter, in_context = result["adapters"]
    assert (adapter["task"], adapter["adapter"], adapter["answers"]) == ("mood", made.name, "yes")
    assert adapter["accuracy"] is None or isinstance(adapter["accuracy"], float)
    written = (made / "card.json").stat().st_mtime
    assert datetime.fromisoformat(adapter["made"]).timestamp() == int(written)
    assert (in_context["task"], in_context["adapter"], in_context["made"]) == ("support_tickets", None, None)
    assert in_context.keys() == adapter.keys()


def test_the_doctor_ends_with_a_result(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    *findings, result = lines_of(capfd, "doctor")
    assert {line["type"] for line in findings} == {"finding"}
    assert result == {"type": "result", "findings": len(findings), "failed": 0}


@pytest.mark.parametrize("alone", [True, False])
def test_what_a_server_needs_is_told_with_its_students_and_what_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], alone: bool
) -> None:
    student = make_student(tmp_path, task_of("mood"))
    (tmp_path / "broken").mkdir()
    if not alone:
        make_adapter(tmp_path, task_of("other"))
    fit, result = lines_of(capfd, "doctor", "--serve", str(tmp_path))
    assert (fit["type"], result["type"]) == ("fit", "result")
    assert fit["student_bytes"] > 0 and fit["free_bytes"] > 0 and ("max_loras" in fit) is not alone
    assert [found["name"] for found in result["students"]] == [student.name] and result["students"][0]["bytes"] > 0
    assert [refused["path"] for refused in result["refused"]] == ["broken"]

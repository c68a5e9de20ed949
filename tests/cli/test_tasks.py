"""`fourshot tasks`: from a table to a checked task."""

import json
from pathlib import Path

import pytest

from fourshot.cli import main as cli

TABLE = "message,team\n" + "".join(
    f"{kind} question number {i} about it,{team}\n"
    for team, kind in (("sales", "price"), ("support", "fault"))
    for i in range(10)
)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "inbox.csv"
    path.write_text(TABLE)
    return path


def test_a_table_becomes_a_task_without_faults(table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", "new", str(table), "--label-column", "team"]) == 0
    assert "fourshot tasks check inbox/inbox.toml" in capfd.readouterr().out
    assert cli.main(["tasks", "check", "inbox", "--no-model"]) == 0
    assert "0 errors" in capfd.readouterr().out


def test_a_check_lists_every_fault_and_fails(table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli.main(["tasks", "new", str(table), "--label-column", "team"])
    file = Path("inbox/inbox.toml")
    file.write_text(file.read_text().replace("noun =", "non =").replace('name = "sales"', "name = 3"))
    capfd.readouterr()
    assert cli.main(["tasks", "check", "inbox", "--no-model", "--json"]) == 2
    result = json.loads(capfd.readouterr().out)
    assert result["errors"] >= 3
    assert {"error"} <= {fault["severity"] for fault in result["faults"]}


def test_the_list_names_what_comes_with_fourshot(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", "list"]) == 0
    shown = capfd.readouterr().out
    assert all(name in shown for name in ("support_tickets", "sst2", "trec", "ag_news"))

"""`fourshot tasks`: from a table to a checked task."""

import json
from pathlib import Path

import pytest

from fourshot.cli import main as cli
from tests.pipeline.task_folders import write_facts

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


def test_the_next_step_is_one_that_works(table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", "new", str(table), "--label-column", "team"]) == 0
    assert cli.main(["tasks", "check", "inbox", "--no-model", "--data", "inbox"]) == 0
    assert "run inbox --data inbox\n" in capfd.readouterr().out
    Path("inbox/test.jsonl").unlink()
    assert cli.main(["tasks", "check", "inbox", "--no-model"]) == 0
    said = capfd.readouterr().out
    assert "A run then trains a classifier and measures nothing" in said and "run inbox\n" in said
    assert cli.main(["tasks", "check", "inbox", "--no-model", "--shots", "40"]) == 0
    assert "run inbox --shots 40 --allow-fewer-shots\n" in capfd.readouterr().out
    facts = str(write_facts(Path("inbox")))
    assert cli.main(["tasks", "check", facts, "--no-model"]) == 0
    assert f"distill {facts}\n" in capfd.readouterr().out


def test_the_name_of_a_task_is_that_of_its_folder(table: Path) -> None:
    assert cli.main(["tasks", "new", str(table), "--name", "cr"]) == 0
    assert sorted(path.name for path in Path("cr").iterdir()) == [
        "cr.toml",
        "made_from.json",
        "test.jsonl",
        "train.jsonl",
    ]


def test_what_was_chosen_and_left_out_is_said_to_people_and_machines(
    table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table.write_text(TABLE + ",sales\n ,support\nprice question number 3 about it,sales\n")
    assert cli.main(["tasks", "new", str(table)]) == 0
    shown = capfd.readouterr().out
    assert "texts: column 'message'\nlabels: column 'team'\nclasses: sales (10), support (10)\n" in shown
    assert "23 rows: 16 for training, 4 for testing, 3 left out\n" in shown
    assert (
        "  2 rows without a text: line 22, 23\n  1 row repeating an earlier text with the same label: line 24\n"
        in shown
    )
    assert "Rows left out: inbox/made_from.json." in shown
    assert cli.main(["tasks", "new", str(table), "--name", "again", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["task_file"], result["rows"], result["text_columns"]) == ("again/again.toml", 23, ["message"])
    assert [(some["reason"], some["count"], some["lines"]) for some in result["left_out"]] == [
        ("empty_text", 2, [22, 23]),
        ("duplicate", 1, [24]),
    ]


def test_the_command_that_comes_next_can_be_copied(table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table.rename("our inbox.csv")
    assert cli.main(["tasks", "new", "our inbox.csv"]) == 0
    assert capfd.readouterr().out.endswith("tasks check 'our inbox/our_inbox.toml'\n")


def test_columns_in_doubt_end_with_2_and_their_names(table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = table.read_text().splitlines()
    table.write_text("\n".join(f"{'subject' if i == 0 else f'the case of {i}'},{line}" for i, line in enumerate(lines)))
    assert cli.main(["tasks", "new", str(table)]) == 2
    assert "'subject' (the case of 1), 'message' (price question" in capfd.readouterr().err
    joined = ["--text-column", "subject", "--text-column", "message"]
    assert cli.main(["tasks", "new", str(table), *joined]) == 0


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


def test_a_file_that_does_not_say_how_it_is_to_be_read_can_be_told_of(
    table: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = TABLE.replace("question", "qu\u00e9stion").splitlines()[1:]
    table.write_bytes("\n".join([*lines, "one, two, three,sales"]).encode("cp1252"))
    for options, message in (
        ([], ":1: byte 0xe9 is not valid UTF-8"),
        (["--encoding", "cp1252"], ":1: the first line looks like an example"),
        (["--encoding", "cp1252", "--no-header"], ":21: 4 fields where the header has 2"),
    ):
        assert cli.main(["tasks", "new", str(table), *options]) == 2
        assert message in capfd.readouterr().err
    assert cli.main(["tasks", "new", str(table), "--encoding", "cp1252", "--no-header", "--skip-broken"]) == 0
    shown = capfd.readouterr().out
    assert "texts: column '1'\nlabels: column '2'\n" in shown
    assert "1 row with more or fewer fields than the header: line 21\n" in shown
    assert "qu\u00e9stion" in Path("inbox/train.jsonl").read_text(encoding="utf-8")


def test_what_is_alike_of_150_classes_is_summed_up(table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    classes = "".join(
        f"note {row} of the customer's file {row * number},{number}\n" for number in range(150) for row in range(3)
    )
    table.write_text("text,label\n" + classes)
    assert cli.main(["tasks", "new", str(table)]) == 0
    assert cli.main(["tasks", "check", "inbox", "--no-model"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) < 30
    assert "warning: and 147 more like this. --json lists them all." in lines
    assert cli.main(["tasks", "check", "inbox", "--no-model", "--json"]) == 0
    faults = json.loads(capfd.readouterr().out)["faults"]
    assert sum("means nothing to a model" in fault["what"] for fault in faults) == 150


def test_shots_that_no_run_takes_are_refused_by_the_check_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tasks", "check", "support_tickets", "--no-model", "--shots", "0"]) == 2
    assert "got 0" in capfd.readouterr().err

"""What a user meets when something is wrong: one clear message, the right exit code, nothing lost."""

import errno
import json
import os
from pathlib import Path

import pytest

import fourshot
from fourshot.cli import main as cli
from fourshot.engine.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
SHOTS = [{"text": f"{label} text number {i}", "label": label} for label in ("good", "bad") for i in range(4)]
TASK = """
name = "opinions"
instruction = "Classify the text as good or bad."
noun = "text"
[data]
folder = "."
[[labels]]
name = "good"
[[labels]]
name = "bad"
"""


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task file with data that a run could start from; the working directory is empty otherwise."""
    folder = tmp_path / "opinions"
    folder.mkdir()
    (folder / "opinions.toml").write_text(TASK)
    write_rows(folder / "train.jsonl", SHOTS)
    write_rows(folder / "test.jsonl", [{"text": "quite good", "label": "good"}, {"text": "so bad", "label": "bad"}])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FOURSHOT_DEBUG", raising=False)
    return folder / "opinions.toml"


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def error_of(capfd: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    """Run the command in this process, expect ``code``, a message and no traceback; returns the message."""
    try:
        exit_code = cli.main(words)
    except SystemExit as usage:
        exit_code = int(usage.code or 0)
    out, err = capfd.readouterr()
    assert (exit_code, out) == (code, "")
    assert "Traceback" not in err
    return err


def test_an_unknown_wording(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "Allowed are task, bare, answer." in error_of(capfd, 2, "run", str(task), "--set", "wording=short")
    assert not Path("runs").exists()


def test_an_unknown_model(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    error = error_of(capfd, 2, "run", str(task), "--model", "nobody/nothing")
    assert "nobody/nothing" in error and "embedded" in error
    assert "no model folder './nowhere'" in error_of(capfd, 2, "run", str(task), "--model", "./nowhere")


@pytest.mark.parametrize("command", ["run", "generate", "train", "evaluate", "compare", "train --tasks"])
def test_a_model_that_cannot_be_trained(task: Path, capfd: pytest.CaptureFixture[str], command: str) -> None:
    error = error_of(capfd, 2, *command.split(), str(task), "--model", "fake:delay_s=0.1")
    assert "cannot use the base model 'fake:delay_s=0.1'" in error and "Only fourshot corpus accepts it" in error
    assert not Path("runs").exists()


def test_a_base_that_takes_no_adapters(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.engine.tiny_models import tiny_checkpoint

    base = tiny_checkpoint("gpt2", task.parent / "gpt2")
    error = error_of(capfd, 2, "run", str(task), "--model", base)
    assert "not support LoRA adapters on GPT2LMHeadModel" in error and "zero_shot,icl" in error
    assert not Path("runs").exists()


def test_projections_that_the_base_does_not_have(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.engine.tiny_models import tiny_checkpoint

    base = tiny_checkpoint("phi3", task.parent / "phi3")
    error = error_of(capfd, 2, "run", str(task), "--model", base, "--set", 'train.target_modules=["q_proj"]')
    assert "has no q_proj to train" in error and "qkv_proj" in error and "'all'" in error
    assert not Path("runs").exists()


def test_a_broken_task_file(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    task.write_text(TASK.replace('noun = "text"', "noun = text"))
    error = error_of(capfd, 2, "run", str(task))
    assert "opinions.toml has 1 fault" in error and "opinions.toml:4:8" in error


def test_a_wrong_column(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    task.write_text(TASK.replace('folder = "."', 'folder = "."\ntext_column = "txt"'))
    error = error_of(capfd, 2, "run", str(task))
    assert "no column 'txt'; the columns are 'text', 'label'" in error


def test_no_shots(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "got 0 shots per class, at least 1 is needed" in error_of(capfd, 2, "run", str(task), "--shots", "0")


def test_a_missing_class(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(task.parent / "train.jsonl", SHOTS[:4])
    assert "'bad' has 0" in error_of(capfd, 2, "run", str(task))


def test_bad_input_leaves_no_run_behind(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    error_of(capfd, 2, "run", str(task), "--set", "train.r=0")
    assert not Path("runs").exists()


def test_a_folder_of_another_configuration(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fourshot.run(task, folder="mine", until="shots")
    error = error_of(capfd, 2, "run", str(task), "--out", "mine", "--per-class", "9")
    assert "generate.per_class: the folder has 50, this call has 9" in error and "--out" in error


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["rn"], "Did you mean run"),
        (["--verison"], "unrecognized arguments: --verison. Did you mean --version?"),
        (["run", "sst2", "--shot", "3"], "Did you mean --shots"),
        (["run", "sst2", "--annotator", "adapter"], "Did you mean adapters?"),
        (["tasks", "chek"], "Did you mean check?"),
        (["run", "support_ticket"], "Did you mean support_tickets?"),
        (["compare", "support_tickets", "--methods", "lora,four_shot"], "Did you mean fourshot?"),
    ],
)
def test_a_typing_error_names_what_was_meant(words: list[str], near: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert near in error_of(capfd, 2, *words)


def test_a_full_disk_under_the_run(
    task: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/manifest.json")

    monkeypatch.setattr(os, "fsync", full)
    error = error_of(capfd, 1, "run", str(task))
    assert "the disk is full (runs/manifest.json)" in error and "another disk" in error


def test_a_fault_of_our_own_says_how_to_see_it(
    task: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("fourshot.pipeline.runs.run.load_shots", broken)
    error = error_of(capfd, 1, "run", str(task))
    assert "unexpected KeyError" in error and "FOURSHOT_DEBUG=1" in error
    monkeypatch.setenv("FOURSHOT_DEBUG", "1")
    with pytest.raises(KeyError):
        cli.main(["run", str(task)])


def test_machines_get_the_error_as_json(task: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(task), "--shots", "0", "--json"]) == 2
    out, err = capfd.readouterr()
    last = json.loads(out.splitlines()[-1])
    assert (last["type"], last["error"], last["exit_code"]) == ("error", "InputError", 2)
    assert last["message"] in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("run", "--json", "support_tickets", "--shots", "x"),
            "argument --shots: invalid int value: 'x'. Give a whole",
        ),
        (
            ("run", "support_tickets", "--confidence", "x"),
            "argument --confidence: invalid float value: 'x'. Give a num",
        ),
        (("serve", "--adapters", ".", "--kv-cache-mib", "x"), "invalid mebibytes value: 'x'. Give a whole number of"),
        (("run",), "the following arguments are required: TASK"),
        (("run", "support_tickets", "--shot", "3"), "unrecognized arguments: --shot 3. Did you mean --shots or --set?"),
        (("run", "support_tickets", "--annotator", "adapter"), "Did you mean adapters?"),
        (("tasks", "chek"), "Did you mean check?"),
        (("rn",), "Did you mean run or train?"),
    ],
)
def test_machines_get_an_error_of_usage_as_json_too(
    words: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert message in error_of(capfd, 2, *(word for word in words if word != "--json"))
    with pytest.raises(SystemExit, match="2"):
        cli.main(words if "--json" in words else [*words, "--json"])
    out, err = capfd.readouterr()
    (line,) = map(json.loads, out.splitlines())
    assert (line["type"], line["error"], line["exit_code"]) == ("error", "InputError", 2)
    assert message in line["message"] and line["message"] in err


def test_a_text_is_no_wish_for_json(capfd: pytest.CaptureFixture[str]) -> None:
    error_of(capfd, 2, "predict", "nowhere", "--shots", "--", "--json")


@pytest.mark.parametrize(
    "wrong",
    [
        ("--model", "nobody/nothing"),
        ("--shots", "20"),
        ("--ray", "127.0.0.1:1"),
        ("--per-class", "0"),
        ("--set", "sampling.temperature=-1"),
    ],
)
@pytest.mark.parametrize("before", ["nothing", "a stranger's file"])
def test_bad_input_leaves_nothing_behind(
    task: Path, capfd: pytest.CaptureFixture[str], wrong: tuple[str, str], before: str
) -> None:
    out = task.parent.parent / "new" / "out"
    if before != "nothing":
        out.mkdir(parents=True)
        (out / "notes.txt").touch()
    error_of(capfd, 2, "run", str(task), "--out", str(out), *wrong)
    if before == "nothing":
        assert not out.parent.exists()
    else:
        assert [entry.name for entry in out.iterdir()] == ["notes.txt"]


def test_a_table_and_an_empty_folder_are_no_tasks(
    task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "notes.csv"
    table.write_text("text,label\na,b\n")
    for command in (["run"], ["tasks", "check"], ["train", "--tasks"]):
        assert f"fourshot tasks new {table}" in error_of(capfd, 2, *command, str(table))
    table.rename(tmp_path / "my notes.csv")
    assert f"fourshot tasks new '{tmp_path / 'my notes.csv'}'" in error_of(capfd, 2, "run", f"{tmp_path}/my notes.csv")
    (tmp_path / "empty").mkdir()
    assert "fourshot tasks new TABLE" in error_of(capfd, 2, "run", "empty")


ADDRESSES = {
    "run": ("run", "support_tickets", "--out", "s3://bucket/run"),
    "plan": ("compare", "support_tickets", "--plan", "--out", "gs://bucket/run"),
    "train": ("train", "--tasks", "support_tickets", "--out", "memory://run"),
    "corpus": ("corpus", "--tasks", "support_tickets", "--model", "fake", "--out", "simplecache::s3://bucket/c"),
    "adapters of a corpus": ("corpus", "--tasks", "support_tickets", "--out", "c", "--adapters", "s3://bucket/a"),
    "generate": ("generate", "support_tickets", "--data", "s3://bucket/data"),
    "annotate": ("annotate", "support_tickets", "--unlabelled", "texts.csv", "--out", "abfs://c@a/said.csv"),
    "distill": ("distill", "support_tickets", "--generate", "4", "--out", "hdfs://host/d"),
    "serve": ("serve", "--adapters", "s3://bucket/adapters"),
    "predict": ("predict", "s3://bucket/run", "a text"),
}


@pytest.mark.parametrize("command", ADDRESSES)
def test_an_address_of_object_storage_in_place_of_a_folder(
    command: str, task: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(task.parent.parent.rglob("*"))
    message = error_of(capfd, 2, *ADDRESSES[command], "--quiet")
    assert "is an address (" in message and "renamed into place" in message and "all of them mount" in message
    assert sorted(task.parent.parent.rglob("*")) == before, "something was made"


@pytest.mark.parametrize(
    ("place", "reason"), [("opinions/train.jsonl/out", "train.jsonl is a file"), ("x" * 300, "cannot be a path")]
)
def test_what_can_be_no_path_is_bad_input(
    task: Path, capfd: pytest.CaptureFixture[str], place: str, reason: str
) -> None:
    table = str(task.parent / "train.jsonl")
    assert reason in error_of(capfd, 2, "tasks", "new", table, "--out", place)
    assert reason in error_of(capfd, 2, "tasks", "new", place)


@pytest.mark.parametrize("folder", ["s3://bucket/run", Path("s3://bucket/run")])
def test_an_address_as_the_folder_of_a_call(folder: str | Path, task: Path) -> None:
    with pytest.raises(InputError, match=r"is an address \(s3://\)"):
        fourshot.run(task, folder=folder)
    assert not Path("s3:").exists()

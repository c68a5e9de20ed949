"""The files of a run folder: torn, missing, or whole."""

import errno
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fourshot.engine.errors import RunFolderError
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.loop.rounds import finished_pairs
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Example
from tests.pipeline.cells.test_run_folder import TASK, manifest
from tests.pipeline.runs.small_run import write_run
from tests.pipeline.runs.whole_runs import WholeRuns


def test_a_torn_last_line_is_not_there_yet(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append("notes.jsonl", [Example(text="one", label="a"), Example(text="two", label="b")])
    with (tmp_path / "notes.jsonl").open("ab") as file:
        file.write(b'{"text":"thr')
    assert [example.text for example in folder.lines("notes.jsonl", Example)] == ["one", "two"]


def test_the_command_is_read_as_it_was_written_whatever_the_locale(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_command("fourshot run größe")
    imported = "import sys; from fourshot.pipeline.cells.run_folder import RunFolder"
    code = f"{imported}; print(ascii(RunFolder(sys.argv[1]).command))"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ascii("this:\n  fourshot run größe")


@pytest.mark.parametrize("out", [["--out", "base"], ["--out=base"], []])
def test_the_command_to_repeat_names_the_folder_where_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: list[str]
) -> None:
    place, other = tmp_path / "my place", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    monkeypatch.chdir(place)
    typed = shlex.join(["fourshot", "run", "mine/task.toml", *out, "--seed", "1"])
    RunFolder("base").path.mkdir()
    RunFolder("base").write_command(typed)
    assert RunFolder("base").command == RunFolder(place / "base").command == f"this:\n  {typed}"
    shutil.copytree("base", "moved")
    now = "--out moved --seed 1" if out else "--seed 1 --out moved"
    assert RunFolder("moved").command == f"this:\n  fourshot run mine/task.toml {now}"
    monkeypatch.chdir(other)
    assert RunFolder(place / "base").command == f"this, in {place}:\n  {typed}"
    assert f"this, in {place}:\n" in RunFolder(place / "moved").command
    assert f"--out {shlex.quote(str(place / 'moved'))}" in RunFolder(place / "moved").command
    place.rename(tmp_path / "all moved")
    assert RunFolder("../all moved/base").command.startswith("this:\n  fourshot run mine/task.toml ")
    assert "--out '../all moved/base'" in RunFolder("../all moved/base").command


def test_a_command_of_an_earlier_version_is_repeated_into_its_folder(tmp_path: Path) -> None:
    (tmp_path / "command.txt").write_text("fourshot run trec --out elsewhere\n")
    assert RunFolder(tmp_path).command == f"this:\n  fourshot run trec --out {tmp_path}"


def test_a_file_that_nobody_wrote_has_no_lines(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).lines("notes.jsonl", Example) == []
    RunFolder(tmp_path).keep_lines("notes.jsonl", 0)


def test_a_text_may_hold_line_ends_of_its_own(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    hard = Example(text='one\ntwo\u2028three\r\n"four"', label="a")
    folder.append("notes.jsonl", [hard, hard])
    assert folder.lines("notes.jsonl", Example) == [hard, hard]


@pytest.mark.parametrize(("count", "content"), [(0, b""), (1, b"1\n"), (3, b"1\n2\n3\n")])
def test_only_so_many_lines_are_kept_and_never_a_torn_one(tmp_path: Path, count: int, content: bytes) -> None:
    (tmp_path / "n.jsonl").write_bytes(b"1\n2\n3\n4")
    RunFolder(tmp_path).keep_lines("n.jsonl", count)
    assert (tmp_path / "n.jsonl").read_bytes() == content


def test_lines_that_went_missing_are_named_and_the_way_out_with_them(tmp_path: Path) -> None:
    (tmp_path / "n.jsonl").write_bytes(b"1\n2\n")
    with pytest.raises(RunFolderError, match=r"n\.jsonl has 2 complete lines, but 3 were finished.*--out"):
        RunFolder(tmp_path).keep_lines("n.jsonl", 3)
    with pytest.raises(RunFolderError, match=r"gone\.jsonl has 0 complete lines, but 3 were finished"):
        RunFolder(tmp_path).keep_lines("gone.jsonl", 3)
    assert (tmp_path / "n.jsonl").read_bytes() == b"1\n2\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rounds.jsonl", r"rounds\.jsonl records 0 kept texts, but generated\.json records 1"),
        ("candidates.jsonl", r"candidates\.jsonl has 0 complete lines, but 4 were finished"),
        ("verdicts.jsonl", r"verdicts\.jsonl has 0 complete lines, but 4 were finished"),
    ],
)
def test_texts_that_went_missing_are_not_learnt_without(tmp_path: Path, name: str, message: str) -> None:
    folder = write_run(tmp_path)
    assert len(finished_pairs(folder)) == 4
    (tmp_path / name).unlink()
    with pytest.raises(RunFolderError, match=message):
        finished_pairs(folder)


def test_a_write_that_fails_leaves_the_old_file_and_no_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    folder.write("value.json", {"n": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fourshot.engine.machine.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write("value.json", {"n": 2})
    assert folder.read("value.json", dict) == {"n": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.json"]


def test_a_write_that_a_kill_cut_short_is_not_seen_and_the_next_one_stands(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    program = (
        "import os, sys, fourshot.engine.machine.files as module\n"
        "from fourshot.pipeline.cells.run_folder import RunFolder\n"
        "module.os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "RunFolder(sys.argv[1]).write(sys.argv[2], {'n': 1})\n"
    )

    def killed_while_writing(name: str) -> None:
        ended = subprocess.run([sys.executable, "-c", program, str(folder.path), name])
        assert ended.returncode == -9
        assert not folder.has(name)

    killed_while_writing("manifest.json")
    folder.claim(manifest())
    assert folder.manifest().task == TASK
    killed_while_writing("value.json")
    folder.write("value.json", {"n": 2})
    assert folder.read("value.json", dict) == {"n": 2}


def test_the_folder_of_one_of_many_tasks_that_was_moved_away_from_its_adapters_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `train --tasks`, a task's folder has a link to the adapters of all; copied alone, it leads nowhere."""
    runs, folder = WholeRuns(tmp_path / "task", monkeypatch), tmp_path / "copied"
    folder.mkdir()
    (folder / "adapters").symlink_to("../adapters")
    with pytest.raises(RunFolderError, match=r"adapters is a link to \.\./adapters, which does not exist.*Put it back"):
        runs.run(folder, RunSettings(k=2))
    assert runs.trained == [] and {entry.name for entry in folder.iterdir()} <= {"adapters", ".lock"}

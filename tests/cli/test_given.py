"""What a shell, a script or a copied command line makes of what is given, and of the command's streams."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fourshot
from fourshot.cli import main as cli
from fourshot.cli import predict
from fourshot.engine.errors import InputError
from tests.pipeline.task_folders import write_task

CORPUS = ("corpus", "--model", "fake", "--annotator", "none", "--per-class", "2", "--quiet")
TASKS = ("--tasks", "support_tickets")
COMMA_SEPARATED = {
    "tasks": ("keys", "add", "k.toml", "--name", "a"),
    "methods": ("compare", "support_tickets"),
    "seeds": ("compare", "support_tickets"),
    "hot": ("serve", "--adapters", "."),
    "cors-origin": ("serve", "--adapters", "."),
    "allowed-hosts": ("serve", "--adapters", "."),
}


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.delenv("FOURSHOT_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command, expect that it is bad input of which nothing comes; returns the message."""
    before = sorted(Path().rglob("*"))
    try:
        code = cli.main(words)
    except SystemExit as usage:
        code = int(usage.code or 0)
    out, error = capfd.readouterr()
    assert (code, out) == (2, "") and "Traceback" not in error and "fault in fourshot" not in error
    assert sorted(Path().rglob("*")) == before
    return error


def test_what_stands_before_the_command_is_told_where_it_belongs(capfd: pytest.CaptureFixture[str]) -> None:
    assert "Put options after it: fourshot COMMAND --json" in refused(capfd, "--json", "run", "support_tickets")
    assert "invalid choice: '--' (choose from " in refused(capfd, "--", "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*CORPUS, *TASKS, "--out", ""), "--out is blank"),
        ((*CORPUS, *TASKS, "--out="), "--out is blank"),
        ((*CORPUS, *TASKS, "--out", " "), "--out is blank"),
        ((*CORPUS, "--tasks", "", "--out", "c"), "--tasks is blank"),
        ((*CORPUS, *TASKS, "--out", "c", "--data", ""), "--data is blank"),
        ((*CORPUS, *TASKS, "--out", "c", "--settings", ""), "--settings is blank"),
        (("serve", "--adapters", ".", "--keys", ""), "--keys is blank"),  # it would let everybody ask
        (("predict", "--url", "", "desk", "a text"), "--url is blank"),
        (("predict", "--url", "http://127.0.0.1:1", "", "a text"), "ADAPTER is blank"),
        (("tasks", "check", " "), "TASK is blank"),
    ],
)
def test_a_blank_value_is_refused_and_not_passed_over(
    words: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capfd, *words)


def test_of_two_lists_none_is_left_out_and_of_two_values_the_last_counts(capfd: pytest.CaptureFixture[str]) -> None:
    assert "--tasks A B" in refused(capfd, *CORPUS, *TASKS, "--out", "a", "--tasks", "trec", "sst2")
    for name, words in COMMA_SEPARATED.items():
        assert f"all values after it: --{name} A,B" in refused(capfd, *words, f"--{name}", "a", f"--{name}", "b")
    assert cli.main((*CORPUS, *TASKS, "--out", "a", "--out=b", "--seed", "-1", "--seed", "2")) == 0
    error = capfd.readouterr().err
    assert "--out is given twice, 'a' and 'b': the last counts" in error
    assert "--seed is given twice, '-1' and '2'" in error
    assert Path("b", "journal.jsonl").is_file() and not Path("a").exists()
    assert cli.main(["predict", "nowhere", "a", "--key", "fs-old", "--key", "fs-new"]) == 2
    error = capfd.readouterr().err
    assert "--key is given twice: the last counts" in error and "fs-" not in error


def test_what_is_given_twice_for_good_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    words = (*CORPUS, *TASKS, "--out", "c", "--out", "c", "--quiet", "--set", "k=4", "--set", "sampling.top_p=1.0")
    assert cli.main(words) == 0
    assert "twice" not in capfd.readouterr().err


@pytest.mark.parametrize("paths", [("--out=~/made",), ("--out", "~/made")])
def test_the_home_folder_is_found_where_the_shell_left_it(
    paths: tuple[str, ...], empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(empty / "home"))
    assert cli.main((*CORPUS, *TASKS, *paths)) == 0
    assert (empty / "home" / "made" / "journal.jsonl").is_file() and not Path("~").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("predict", "\u2013url", "http://127.0.0.1:1", "desk", "a"), "Type --url"),
        (("predict", "\u2014url=http://127.0.0.1:1", "desk", "a"), "Type --url"),
        (("run", "trec", "\u2010-out", "x"), "Type --out"),
        (("predict", "-url", "http://127.0.0.1:1", "desk", "a"), "Did you mean --url?"),
        (("predict", "http://127.0.0.1:1", "desk", "a"), "--url http://127.0.0.1:1 TASK"),
        (("predict", "--url", "http://127.0.0.1:1", "caf\udce9", "a"), "not Unicode"),
        (("keys", "add", "keys.toml", "--name", "a", "--tasks", "caf\udce9"), "not UTF-8"),
        (("keys", "list", "."), "Is a directory"),
    ],
)
def test_what_is_meant_is_said(words: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capfd, *words)


def test_a_text_may_begin_with_any_dash(capfd: pytest.CaptureFixture[str]) -> None:
    assert "there is no folder" in refused(capfd, "predict", "nowhere", "\u20135 degrees", "-5", "--", "\u2013url")


@pytest.mark.parametrize(
    ("name", "message"),
    [("journal.jsonl", "is a folder, but a file is needed"), ("README.md", "is a folder"), ("data", "part of it is")],
)
def test_what_is_in_the_way_of_a_file_is_said(name: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main((*CORPUS, *TASKS, "--out", "c")) == 0
    capfd.readouterr()
    place = Path("c", name)
    place.rename("aside")
    if name == "data":
        place.touch()
    else:
        place.mkdir()
    assert cli.main((*CORPUS, *TASKS, "--out", "c")) == 2
    assert f"c/{name}" in (error := capfd.readouterr().err) and message in error


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xef\xbb\xbfk = 4\r\n", ""), ("k = 4".encode("utf-16"), "Save it as UTF-8"), (None, "Name a TOML file")],
)
def test_a_settings_file_of_an_editor(content: bytes | None, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = Path("mine.toml")
    file.mkdir() if content is None else file.write_bytes(content)
    words = (*CORPUS, *TASKS, "--out", "c", "--settings", "mine.toml")
    if message:
        assert message in refused(capfd, *words)
    else:
        assert cli.main(words) == 0


class Bytes:
    """Standard input."""

    def __init__(self, content: bytes) -> None:
        self.content, self.buffer = content, self

    def isatty(self) -> bool:
        return False

    def read(self) -> bytes:
        return self.content


@pytest.mark.parametrize("content", [b"a\nb c\n", b"a\r\nb c", b"a\rb c\r", b"\xef\xbb\xbfa\nb c"])
def test_lines_end_as_they_do_anywhere(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Bytes(content))
    terminal: Any = None
    for arguments in ([], ["-"]):
        assert predict.read_texts(arguments, terminal) == ["a", "b c"]


@pytest.mark.parametrize("texts", [("-", "hi"), ("hi", "-"), ("-", "-")])
def test_standard_input_and_texts_beside_it_are_refused(texts: tuple[str, ...]) -> None:
    terminal: Any = None
    with pytest.raises(InputError, match="Leave one of the two out"):
        predict.read_texts(texts, terminal)


def ran(script: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """A shell's command line, in which $F is the command."""
    variables = {
        **os.environ,
        "F": f"{sys.executable} -m fourshot",
        "PYTHONPATH": os.pathsep.join(sys.path),
        **environment,
    }
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, env=variables, timeout=120, check=False)


def test_streams_that_are_closed_are_as_good_as_empty() -> None:
    done = ran(
        "$F keys add k.toml --name a >&- ; $F keys list k.toml --json <&- ; $F keys add k.toml --name b 2>&- >&-"
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["keys"][0]["name"] == "a"
    assert Path("k.toml").read_text().count("sha256 =") == 2
    assert "This is the only time" not in Path("k.toml").read_text()  # what is printed went nowhere else
    done = ran("$F predict nowhere <&-")
    assert done.returncode == 2 and b"no folder nowhere" in done.stderr


def test_python_without_docstrings_is_told_of() -> None:
    done = ran("$F tasks list", PYTHONOPTIMIZE="2")
    assert done.returncode == 2 and b"Leave -OO out, and unset PYTHONOPTIMIZE" in done.stderr


def test_characters_that_the_output_does_not_have_are_printed_as_codes() -> None:
    done = ran("$F keys add k.toml --name caf\u00e9\U0001f692 > key; $F keys list k.toml", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0 and "caf\u00e9\\U0001f692".encode("latin-1") in done.stdout


def test_a_locale_of_ascii_alone_takes_no_characters_away() -> None:
    rows = [f"Text {number},{label}\n" for number, label in enumerate(["gr\u00f6\u00dfe", "\u00fcbel"] * 20)]
    Path("t\u00e4sk.csv").write_text("".join(["text,label\n", *rows]), encoding="utf-8")
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = "$F tasks new t\u00e4sk.csv --name gruen --out gr\u00fcn && $F tasks check gr\u00fcn --no-model"
    done = ran(words, **ascii_alone)
    assert done.returncode == 0, done.stderr.decode()
    assert "gr\u00f6\u00dfe" in done.stdout.decode() + done.stderr.decode()
    assert Path("gr\u00fcn").is_dir()


def test_a_full_disk_under_json_is_told_in_a_line() -> None:
    done = ran("$F tasks list --json > /dev/full")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1) and b"the disk is full" in done.stderr


def test_a_call_for_one_task_or_another_format_is_bad_input() -> None:
    with pytest.raises(InputError, match="Put it in a list"):
        fourshot.corpus("support_tickets", "made", model="fake")
    with pytest.raises(InputError, match="allowed are jsonl, parquet"):
        fourshot.CorpusSettings(format="csv")  # type: ignore[arg-type]
    assert not Path("made").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("run", "support_tickets", "--text-column", "x"),
        ("train", "--tasks", "support_tickets", "--encoding", "cp1252"),
        ("distill", "support_tickets", "--generate", "9", "--encoding", "cp1252"),
    ],
)
def test_how_texts_are_read_that_are_not_given_is_refused(
    capfd: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert "is for the texts of --unlabelled FILE, which is not given" in refused(capfd, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compare", "support_tickets", "--set", "seed=5"), "For this seed alone, give '--seeds 5,'."),
        (("compare", "support_tickets", "--plan", "--set", "seed=5"), "ignores the setting seed = 5"),
        (("tasks", "check", "support_tickets", "--no-model", "--model", "nowhere"), "--model is for how a model sees"),
        (("corpus", "--tasks", "sst2", "--model", "fake", "--out", "c", "--data", "nowhere"), "with --data or as"),
    ],
)
def test_what_would_do_nothing_is_refused_and_what_to_do_is_said(
    words: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert message.lower() in refused(capfd, *words).lower()


def test_whoever_named_an_address_is_told_of_no_option_of_another_command(capfd: pytest.CaptureFixture[str]) -> None:
    words = ("annotate", "support_tickets", "--unlabelled", "a.csv", "--out", "b.csv", "--by", "http://127.0.0.1:1")
    assert cli.main(words) == 1
    error = capfd.readouterr().err
    assert "or give the address of one that runs" in error and "--url" not in error


@pytest.mark.parametrize(
    ("function", "task"), [(fourshot.distill, "support_tickets"), (fourshot.distill_text, "webnlg")]
)
def test_how_texts_are_read_that_are_not_given_is_refused_in_python(function: Callable[..., Any], task: str) -> None:
    for argument in ({"text_column": "nope"}, {"encoding": "klingon"}):
        with pytest.raises(InputError, match="for the texts of --unlabelled FILE, which is not given"):
            function(task, generate=3, **argument)


def test_a_folder_that_is_gone_is_told_of(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    done = ran(f"mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir ../gone && $F tasks check {task}")
    assert done.returncode == 2 and b"the current folder is gone" in done.stderr


def test_brackets_in_brackets_are_told_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    deep = tmp_path / "deep.toml"
    deep.write_text("a = " + "[" * 5000 + "]" * 5000)
    assert cli.main(["tasks", "check", str(deep)]) == 2 and "not valid TOML" in capfd.readouterr().out
    assert "is not valid TOML" in refused(capfd, "run", "support_tickets", "--settings", str(deep))
    assert "is not a key file" in refused(capfd, "keys", "list", str(deep))

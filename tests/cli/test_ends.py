"""How the command's process ends: a full disk, a reader that leaves, Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fourshot import start
from fourshot.cli import main as cli
from fourshot.engine.machine.home import HOME_VARIABLE

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", ["tasks list", "--help", "run --help", "--version"])
def test_a_full_disk_under_the_output(words: str) -> None:
    with open("/dev/full", "w") as full:
        process = command(*words.split(), stdout=full)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error.count("\n")) == (1, 1)
    assert "the disk is full" in error


@pytest.mark.parametrize("words", ["tasks list", "--help"])
def test_a_reader_that_leaves_is_no_error(words: str) -> None:
    read, write = os.pipe()
    os.close(read)
    process = command(*words.split(), stdout=write)
    os.close(write)
    _, error = process.communicate(timeout=60)
    assert error == ""


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    # What is started in the background of a script inherits an ignored SIGINT; a user at a terminal does not.
    process = command(
        "run",
        "support_tickets",
        "--out",
        str(tmp_path / "run"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("shots:")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "fourshot: stopped; run the same command again to continue."
    assert "Traceback" not in error


def test_a_reader_that_leaves_work_that_goes_on_is_told_of(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = command("run", "support_tickets", "--json", "--out", str(tmp_path / "run"), stdout=write)
    os.close(write)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error == "fourshot: the output was closed; run the same command again to continue.\n"


@pytest.mark.parametrize("module", ["fourshot.engine.machine.home", "fourshot.cli.runs", "fourshot.cli.bench"])
def test_ctrl_c_while_the_command_is_imported_is_one_line(tmp_path: Path, module: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
    )
    process = command(
        *("tasks", "list"),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))},
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "fourshot: stopped.\n")


def test_a_user_without_a_home_is_told_so_or_has_fourshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container whose user the system does not know."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", HOME_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["run", "support_tickets", "--out", str(tmp_path / "run"), "--quiet"]) == 2
    said = "fourshot: this user has no home folder. Set FOURSHOT_HOME, or HOME, to a folder that it may write to.\n"
    assert capsys.readouterr().err == said
    start.set_missing_home()
    assert os.path.expanduser("~") == "~"
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setenv("HOME", "")  # so that it is as before in the end
    monkeypatch.delenv("HOME")
    start.set_missing_home()
    assert os.path.expanduser("~") == str(tmp_path) == os.environ["HOME"]


def command(*words: str, **settings: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "fourshot", *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        **settings,  # type: ignore[call-overload]
    )

"""How the command's process ends: a full disk, a reader that leaves, Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert error.splitlines()[-1] == "fourshot: stopped; run the same command again to go on."
    assert "Traceback" not in error


def command(*words: str, **settings: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "fourshot", *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        **settings,  # type: ignore[call-overload]
    )

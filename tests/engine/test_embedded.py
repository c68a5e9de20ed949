"""The embedded model survives what machines do to it."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fourshot.engine.embedded import embedded_model, is_whole

UNPACK = "from fourshot.engine.embedded import embedded_model; print(embedded_model())"
REPOSITORY = Path(__file__).parents[2]


def unpacking(home: Path, **settings: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", UNPACK],
        cwd=REPOSITORY,
        env=os.environ | {"FOURSHOT_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,  # type: ignore[call-overload]
    )


def test_a_kill_and_then_two_at_once_leave_one_whole_model(tmp_path: Path) -> None:
    killed = unpacking(tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("models/*.partial/*")):  # in the middle of writing
        assert killed.poll() is None and time.monotonic() < deadline, "never began to write"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert list(tmp_path.glob("models/*.partial")), "the kill came too late to mean anything"
    assert not any(is_whole(path) for path in tmp_path.glob("models/*"))

    together = [unpacking(tmp_path), unpacking(tmp_path)]
    answers = [process.communicate(timeout=240) for process in together]
    folders = {out.strip() for out, _ in answers}
    assert [process.returncode for process in together] == [0, 0], answers
    assert len(folders) == 1
    assert is_whole(Path(folders.pop()))
    assert not list(tmp_path.glob("models/*.partial"))


def test_a_full_disk_is_said_clearly_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on the size of a file stands for the full disk: the write of the weights fails half way."""
    limit = 64 << 20
    process = unpacking(tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, error = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "FourshotError: The embedded model could not be unpacked" in error
    assert "FOURSHOT_HOME" in error
    assert not [path for path in tmp_path.glob("models/*") if path.suffix != ".lock"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_is_said_clearly(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    _, error = unpacking(tmp_path).communicate(timeout=60)
    assert "FOURSHOT_HOME" in error


def test_a_truncated_file_is_noticed(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "models" / Path(model).name
    copy.mkdir(parents=True)
    for path in Path(model).iterdir():
        (copy / path.name).symlink_to(path)
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path))
    assert embedded_model() == copy
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.json").write_text("{")
    assert not is_whole(copy)

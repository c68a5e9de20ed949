"""The embedded model survives what machines do to it.

Two small files stand for the checkpoint, so that a process can be killed between them in no time; that the real one is
read from its package as it should be, every test with the embedded model shows.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fourshot.engine.checkpoints.embedded import embedded_model, is_whole
from fourshot.engine.machine.processes import child_environment
from tests.waiting import wait_for

WEIGHTS_BYTES = 1 << 20
UNPACK = f"""
import sys, time
from pathlib import Path
import numpy
from safetensors.numpy import save_file
from fourshot.engine.checkpoints import embedded

def convert(gguf, folder):
    (folder / "config.json").write_text("{{}}")
    while not Path(sys.argv[1]).exists():
        time.sleep(0.01)
    save_file({{"weights": numpy.zeros({WEIGHTS_BYTES}, numpy.int8)}}, folder / "model.safetensors")

embedded._packaged_gguf = lambda: Path("none.gguf")
embedded._convert = convert
print(embedded.embedded_model())
"""


def unpacking(home: Path, go_on: Path, **settings: object) -> "subprocess.Popen[str]":
    """A process that unpacks a small model; it stops half way until the file ``go_on`` is there."""
    return subprocess.Popen(
        [sys.executable, "-c", UNPACK, str(go_on)],
        env=child_environment() | {"FOURSHOT_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,  # type: ignore[call-overload]
    )


def half_written(home: Path) -> list[Path]:
    return list(home.glob("models/.*.partial/config.json"))


def test_a_kill_and_then_two_at_once_leave_one_whole_model(tmp_path: Path) -> None:
    go_on = tmp_path / "go_on"
    killed = unpacking(tmp_path, go_on)
    wait_for(lambda: half_written(tmp_path), "the first to write")
    killed.kill()
    killed.communicate()
    (leftover,) = half_written(tmp_path)
    assert not any(is_whole(path) for path in tmp_path.glob("models/*"))

    together = [unpacking(tmp_path, go_on), unpacking(tmp_path, go_on)]
    wait_for(lambda: half_written(tmp_path) not in ([], [leftover]), "another to write")
    go_on.touch()
    answers = [process.communicate(timeout=60) for process in together]
    folders = {out.strip() for out, _ in answers}
    assert [process.returncode for process in together] == [0, 0], answers
    assert len(folders) == 1
    assert is_whole(Path(folders.pop()))
    assert not list(tmp_path.glob("models/.*.partial"))


def test_a_full_disk_is_said_clearly_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on the size of a file stands for the full disk: the write of the weights fails half way."""
    limit = WEIGHTS_BYTES // 2
    process = unpacking(
        tmp_path, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "FourshotError: The embedded model could not be unpacked" in error
    assert "FOURSHOT_HOME" in error
    assert not [path for path in tmp_path.glob("models/*") if path.suffix != ".lock"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_is_said_clearly(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    _, error = unpacking(tmp_path, tmp_path).communicate(timeout=60)
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

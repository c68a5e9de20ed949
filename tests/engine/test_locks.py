"""Locks are told of where another process keeps one, and where there are none."""

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from fourshot.bench.core.results import locked
from fourshot.engine.errors import InputError, RunFolderError
from fourshot.engine.machine import locks
from fourshot.pipeline.work_folder import WorkFolder


def test_a_lock_that_another_process_keeps_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_S", 0.2)
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(InputError, match=r"another process has locked .*lsof names it"):
        locks.exclusive_update(tmp_path / "a").__enter__()
    os.close(other)
    with locks.exclusive_update(tmp_path / "a"):
        pass


def test_a_file_system_that_locks_no_folders_gets_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS locks only what was opened for writing."""
    flock = fcntl.flock

    def of_files(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", of_files)
    monkeypatch.setattr(locks, "PATIENCE_S", 0.2)
    with locks.exclusive_update(tmp_path / "a"):
        with pytest.raises(InputError, match="another process has locked"):
            locks.exclusive_update(tmp_path / "a").__enter__()
        with locks.exclusive_update(tmp_path / "b"):
            pass
    with locks.exclusive_update(tmp_path / "a"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_of_and_nothing_is_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    used = tmp_path / "used"
    used.mkdir()
    for place in (lambda: WorkFolder(tmp_path / "new" / "out").lock(), lambda: WorkFolder(used).lock()):
        with pytest.raises(InputError, match=r"file system without locks \(.*\).*Mount it with locks"), place():
            pass
    for place in (lambda: locked(tmp_path / "latency.json"), lambda: locks.exclusive_update(tmp_path / "keys.toml")):
        with pytest.raises(InputError, match="Mount it with locks"), place():
            pass
    assert [*tmp_path.rglob("*")] == [used]


def test_a_folder_that_is_moved_while_it_is_worked_in_is_told_of(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "out")

    def moved() -> None:
        work.write("manifest.json", {})
        (tmp_path / "out").rename(tmp_path / "elsewhere")
        (tmp_path / "out" / "log.txt").read_text()

    with pytest.raises(RunFolderError, match="was moved or removed while this command worked there"), work.lock():
        moved()
    with pytest.raises(FileNotFoundError), WorkFolder(tmp_path / "elsewhere").lock():
        (tmp_path / "elsewhere" / "log.txt").read_text()


def test_where_another_kind_of_lock_will_do_nothing_is_said_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def unknown(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    busy = pytest.raises(InputError, match="Another fourshot process works")
    with WorkFolder(tmp_path / "out").lock(), busy, WorkFolder(tmp_path / "out").lock():
        pass
    assert not recwarn.list and not (tmp_path / "out").exists()

"""Key files and pins are changed by several people and scripts at once, through links, and for a service's account."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fourshot.cli import main as cli
from fourshot.serving.app.keys import Keys, add_key, read_keys, remove_key
from fourshot.serving.models.adapters_folder import pin, unpin
from fourshot.serving.models.registry import read_pins
from fourshot.serving.testing.adapters import task_of
from tests.serving.random_students import make_student

AT_ONCE = 8


def test_keys_that_are_added_and_removed_at_once_are_all_there_and_gone(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    for name in range(AT_ONCE):
        add_key(file, f"old {name}")
    with ThreadPoolExecutor(2 * AT_ONCE) as pool:
        additions = [pool.submit(add_key, file, f"new {name}") for name in range(AT_ONCE)]
        removals = [pool.submit(remove_key, file, f"old {name}") for name in range(AT_ONCE)]
        secrets = [future.result() for future in additions]
        assert [future.result() for future in removals] == [None] * AT_ONCE
    assert sorted(key.name for key in read_keys(file)) == [f"new {name}" for name in range(AT_ONCE)]
    assert all(Keys(file).find(f"Bearer {secret}") for secret in secrets)


def test_pins_that_are_set_at_once_are_all_there(tmp_path: Path) -> None:
    names = [make_student(tmp_path, task_of(f"task-{number}")).name for number in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tasks = [future.result() for future in [pool.submit(pin, tmp_path, name) for name in names]]
    assert read_pins(tmp_path) == dict(zip(tasks, names, strict=True))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        [future.result() for future in [pool.submit(unpin, tmp_path, task) for task in tasks]]
    assert read_pins(tmp_path) == {}


def test_a_link_to_a_key_file_stays_one_and_who_could_read_it_still_can(tmp_path: Path) -> None:
    file, link = tmp_path / "real.toml", tmp_path / "keys.toml"
    first = add_key(file, "first")
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    link.symlink_to(file)
    served = Keys(file)
    second = add_key(link, "second")
    assert link.is_symlink() and file.stat().st_mode & 0o777 == 0o640
    served.refresh()
    assert served.find(f"Bearer {first}") and served.find(f"Bearer {second}")


def test_a_key_that_nobody_has_seen_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.toml"
    add_key(file, "first")
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        add_key(file, "second", show=full)
    assert file.read_bytes() == before and [*tmp_path.iterdir()] == [file]
    rename = os.replace

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        raise KeyboardInterrupt

    capfd.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        assert cli.main(["keys", "add", str(file), "--name", "second"]) == 130
    printed = capfd.readouterr()
    assert Keys(file).find(f"Bearer {printed.out.strip()}"), "it was shown before it was there"
    assert "it may already be done. Check before" in printed.err


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_who_may_read_a_key_file_is_so_before_it_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    file, rename, modes = tmp_path / "keys.toml", os.replace, list[int]()
    if mode != 0o600:
        add_key(file, "first")
        file.chmod(mode)

    def noted(source: Path, target: Path) -> None:
        modes.append(source.stat().st_mode & 0o777)
        rename(source, target)

    monkeypatch.setattr(os, "replace", noted)
    add_key(file, "second")
    assert modes == [mode]


def test_a_file_system_without_rights_is_told_of_and_keeps_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.toml"
    add_key(file, "first")
    file.chmod(0o640)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refused)
    second = add_key(file, "second")
    assert Keys(file).find(f"Bearer {second}") and "which were 640" in caplog.text


def test_a_key_without_a_limit_of_its_own_is_listed_with_where_that_is_set(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "keys.toml")
    for words in (["--name", "a"], ["--name", "b", "--max-concurrent", "0"], ["--name", "c", "--max-concurrent", "3"]):
        assert cli.main(["keys", "add", file, *words]) == 0
    capfd.readouterr()
    assert cli.main(["keys", "list", file]) == 0
    listed = [" ".join(line.split()) for line in capfd.readouterr().out.strip().splitlines()]
    assert listed[-3:] == ["a all as serve --max-concurrent", "b all as serve --max-concurrent", "c all 3"]
    assert cli.main(["keys", "add", file, "--name", "d", "--max-concurrent", "-1"]) == 2
    assert "(serve --max-concurrent)" in capfd.readouterr().err


def test_a_file_that_holds_no_key_any_more_lets_nobody_in_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = add_key(file := tmp_path / "keys.toml", "one")
    keys = Keys(file)
    file.write_text("")
    with caplog.at_level("WARNING", "fourshot.serving"):
        keys.refresh()
    assert keys.find(f"Bearer {secret}") is None and "holds no key any more" in caplog.text

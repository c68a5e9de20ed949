"""Files and folders are whole or not there."""

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from fourshot.engine.errors import RunFolderError
from fourshot.engine.machine import files
from fourshot.engine.machine.files import (
    append_lines,
    keep_lines,
    read_json,
    read_lines,
    read_made,
    remove_folder,
    replace_file,
    settle,
    staged_folder,
    write_json,
)


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "file"
    replace_file(file, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]


def test_of_a_folder_that_may_not_be_written_to_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not our hidden file in it, which nobody knows of. As root has all rights, the system's answer is planted."""
    make_folder = Path.mkdir

    def refuse(place: Path, *_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(place))

    def refuse_hidden(place: Path, **options: Any) -> None:
        refuse(place) if place.name.startswith(".") else make_folder(place, **options)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse_hidden)
    with pytest.raises(PermissionError) as of_file:
        replace_file(tmp_path / "keys.toml", b"")
    with pytest.raises(PermissionError) as of_folder, staged_folder(tmp_path, "task"):
        pass
    assert of_file.value.filename == of_folder.value.filename == str(tmp_path)


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"a": [1]})
    assert (tmp_path / "file.json").read_text() == '{\n "a": [\n  1\n ]\n}'
    assert read_json(tmp_path / "file.json", dict[str, list[int]]) == {"a": [1]}


@pytest.mark.parametrize("content", [b'{"a": "\xff"}', b'{"a": ' + b"[" * 100_000, b""])
def test_whatever_is_no_json_is_told_in_one_way(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(msgspec.DecodeError):
        read_json(tmp_path / "file.json", dict[str, object])


@pytest.mark.parametrize("name", ["ü" * 127, "n" * 255])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path, name: str) -> None:
    replace_file(tmp_path / name, b"whole")
    assert [*tmp_path.iterdir()] == [tmp_path / name] and (tmp_path / name).read_bytes() == b"whole"
    with staged_folder(tmp_path / "in", name) as staged:
        settle(staged, tmp_path / "in" / name)
    assert [*(tmp_path / "in").iterdir()] == [tmp_path / "in" / name]


@pytest.mark.parametrize("sync", [False, True])
def test_a_folder_is_there_once_it_is_whole(tmp_path: Path, sync: bool) -> None:
    target = tmp_path / "new" / "target"
    with staged_folder(target.parent, "target") as staged:
        (staged / "file").write_text("whole")
        assert not target.exists()
        settle(staged, target, sync=sync)
    assert (target / "file").read_text() == "whole"
    assert target.stat().st_mode & 0o777 == 0o755
    with staged_folder(target.parent) as staged:
        (staged / "file").write_text("another")
        settle(staged, target, replace=True)
    assert (target / "file").read_text() == "another"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(("hidden", "of_files", "of_folders"), [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770)])
def test_others_may_read_a_folder_as_far_as_the_user_lets_them(
    tmp_path: Path, hidden: int, of_files: int, of_folders: int
) -> None:
    before = os.umask(hidden)
    try:
        with staged_folder(tmp_path) as staged:
            (staged / "inner").mkdir(0o700)
            for file in (staged / "model.safetensors", staged / "inner" / "model.safetensors"):
                file.touch(0o600)  # as safetensors does
            (staged / "link").symlink_to("/nowhere")
            settle(staged, tmp_path / "target")
    finally:
        os.umask(before)
    modes = {path.name: path.lstat().st_mode & 0o777 for path in (tmp_path / "target").rglob("*")}
    assert modes == {"inner": of_folders, "model.safetensors": of_files, "link": 0o777}
    assert (tmp_path / "target").stat().st_mode & 0o777 == of_folders


def test_a_folder_that_was_not_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path) as staged:
        settle(staged / "broken", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_of_a_folder_goes_once_it_is_certain_that_nobody_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, of_another = tmp_path / ".a[1]-abc_de12.partial", tmp_path / ".b-abc_de12.partial"
    for folder in (left, of_another):
        folder.mkdir()
        (folder / "weights").touch()
    (tmp_path / ".a[1]-linked00.partial").symlink_to(of_another)
    with staged_folder(tmp_path, "a[1]"):
        assert left.exists(), "it may be of another machine, whose locks are not seen here"
    monkeypatch.setattr(files, "ABANDONED_S", -1.0)
    with staged_folder(tmp_path, "a[1]") as filled, staged_folder(tmp_path, "a[1]"):
        assert filled.exists() and not left.exists() and (of_another / "weights").exists()


def test_a_removed_folder_is_gone_with_what_it_held(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    remove_folder(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_lines_survive_a_cut_and_are_kept_by_number(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    assert read_lines(file, int) == []
    keep_lines(file, 0)
    append_lines(file, [1, 2])
    with file.open("ab") as torn:
        torn.write(b'{"a ki')
    append_lines(file, [3])
    with file.open("ab") as opened:
        opened.write(b"4")
    assert read_lines(file, int) == [1, 2, 3]
    keep_lines(file, 3)
    assert file.read_bytes() == b"1\n2\n3\n"
    keep_lines(file, 1)
    assert read_lines(file, int) == [1]
    with pytest.raises(RunFolderError, match="has 1 complete lines, but 2 were finished"):
        keep_lines(file, 2)
    keep_lines(file, 0)
    assert file.read_bytes() == b""


def test_a_line_that_was_changed_is_named_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_bytes(b"1\n2\n\xff\n4\n")
    with pytest.raises(RunFolderError, match=r"Line 3 of .*lines\.jsonl was changed after it was written"):
        read_lines(tmp_path / "lines.jsonl", int)


def test_a_file_of_an_earlier_call_that_was_changed_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(b'{"a": ')
    with pytest.raises(
        RunFolderError, match=r"result\.json was changed after it was written.*remove it so that it is made"
    ):
        read_made(tmp_path / "result.json", dict)


def test_a_pipe_is_no_document_and_a_link_is_not_written_to(tmp_path: Path) -> None:
    """Of folders that come from elsewhere: reading the one never ends, the other leads to a file of the user's."""
    os.mkfifo(tmp_path / "card.json")
    with pytest.raises(OSError, match="Neither a file nor a folder"):
        read_json(tmp_path / "card.json", dict[str, object])
    mine, journal = tmp_path / "mine", tmp_path / "journal.jsonl"
    mine.write_text("mine\nnot ended")
    journal.symlink_to(mine)
    with pytest.raises(RunFolderError, match="is a link, and is not written to"):
        append_lines(journal, [1])
    with pytest.raises(RunFolderError, match="is a link, and is not written to"):
        keep_lines(journal, 0)
    assert mine.read_text() == "mine\nnot ended"

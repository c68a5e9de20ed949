"""A link leads to what is the result, also where a program that followed links put a copy in its place."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from fourshot.cli import main as cli
from fourshot.engine.errors import RunFolderError
from fourshot.engine.machine.links import check_links, link_to


def test_a_copy_in_place_of_a_link_is_replaced_and_anything_else_is_refused(tmp_path: Path) -> None:
    store, link = tmp_path / "store" / "one", tmp_path / "adapter"
    (store / "inner").mkdir(parents=True)
    (store / "card.json").write_text("{}")
    (store / "inner" / "weights").write_bytes(b"1234")
    link_to(link, store)
    assert link.is_symlink() and link.resolve() == store
    copied = shutil.copytree(tmp_path, tmp_path.with_name("copied"))
    link_to(copied / "adapter", copied / "store" / "one")
    assert (copied / "adapter").resolve() == copied / "store" / "one" and len([*copied.iterdir()]) == 2
    for changed in (store / "inner" / "weights", store / "inner" / "more"):
        link.unlink(missing_ok=True)
        shutil.copytree(store, link)
        changed.write_bytes(b"4321")
        with pytest.raises(RunFolderError, match="by a program that follows links when it copies"):
            link_to(link, store)
        assert (link / "inner" / "weights").exists()
        shutil.rmtree(link)
    link.write_text("mine")
    with pytest.raises(RunFolderError, match="is not a link"):
        link_to(link, store)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
@pytest.mark.parametrize(
    "command",
    [
        ["run", "support_tickets"],
        ["train", "support_tickets"],
        ["train", "--tasks", "support_tickets"],
        ["distill", "support_tickets", "--generate", "5"],
    ],
)
def test_a_file_system_without_links_is_told_of_before_anything_is_made(
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    number: int,
) -> None:
    def refused(target: str, link: str | Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), target, None, str(link))

    monkeypatch.setattr(os, "symlink", refused)
    assert cli.main([*command, "--model", model, "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert "is on a file system without symbolic links" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_where_links_can_be_made_none_is_left(tmp_path: Path) -> None:
    (tmp_path / ".lock.link").symlink_to("of a kill")
    check_links(tmp_path)
    assert not [*tmp_path.iterdir()]

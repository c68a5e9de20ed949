"""A link leads to what is the result, also where a program that followed links put a copy in its place."""

import shutil
from pathlib import Path

import pytest

from fourshot.engine.errors import RunFolderError
from fourshot.engine.machine.links import lead


def test_a_copy_in_place_of_a_link_is_replaced_and_anything_else_is_refused(tmp_path: Path) -> None:
    store, link = tmp_path / "store" / "one", tmp_path / "adapter"
    (store / "inner").mkdir(parents=True)
    (store / "card.json").write_text("{}")
    (store / "inner" / "weights").write_bytes(b"1234")
    lead(link, store)
    assert link.is_symlink() and link.resolve() == store
    copied = shutil.copytree(tmp_path, tmp_path.with_name("copied"))
    lead(copied / "adapter", copied / "store" / "one")
    assert (copied / "adapter").resolve() == copied / "store" / "one" and len([*copied.iterdir()]) == 2
    for changed in (store / "inner" / "weights", store / "inner" / "more"):
        link.unlink(missing_ok=True)
        shutil.copytree(store, link)
        changed.write_bytes(b"4321")
        with pytest.raises(RunFolderError, match="by a program that follows links when it copies"):
            lead(link, store)
        assert (link / "inner" / "weights").exists()
        shutil.rmtree(link)
    link.write_text("mine")
    with pytest.raises(RunFolderError, match="is no link"):
        lead(link, store)

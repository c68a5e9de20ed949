"""Links inside a folder of our own, which lead to what is the result of several."""

import filecmp
import os
from pathlib import Path

from fourshot.engine.errors import RunFolderError
from fourshot.engine.machine.files import remove_folder


def lead(link: Path, target: Path) -> None:
    """Make ``link`` lead to ``target``; relative, so that the folder of both may be moved.

    A copy of ``target`` in its place, as programs make that follow links, is replaced. Raises RunFolderError where
    something else is there.
    """
    if link.exists() and not link.is_symlink():
        if not _is_copy(link, target):
            raise RunFolderError(
                f"{link} is there already, and is no link: it was put there by another command, or by a program that "
                f"follows links when it copies. Remove it if you do not need it, or give another folder (--out)."
            )
        remove_folder(link)
    staged = link.with_name(f".{link.name}")
    staged.unlink(missing_ok=True)
    staged.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()), target_is_directory=True)
    os.replace(staged, link)


def _is_copy(folder: Path, of: Path) -> bool:
    """Whether both are folders with the same files, and the same in them."""
    if not (folder.is_dir() and of.is_dir()):
        return False
    names, others = ({str(file.relative_to(root)) for file in root.rglob("*")} for root in (folder, of))
    files = [name for name in names if not (of / name).is_dir()]
    return names == others and not any(filecmp.cmpfiles(folder, of, files, shallow=False)[1:])

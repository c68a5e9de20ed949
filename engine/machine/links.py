"""Links inside a folder of our own, which lead to what is the result of several."""

import errno
import filecmp
import os
from pathlib import Path

from fourshot.engine.errors import InputError, RunFolderError
from fourshot.engine.machine.files import remove_folder

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # what file systems without them say


def check_links(folder: Path) -> None:
    """Raise InputError where links cannot be made in ``folder``: before the work of which one leads to the result."""
    link = folder / ".lock.link"  # a kill may leave it, which is none of the work then, as the lock's file
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(folder.name)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise InputError(
            f"{folder} is on a file system without symbolic links ({error.strerror}), such as exFAT, and one leads to "
            "what comes of this command. Give a place on another disk (--out), and copy what you need from there."
        ) from error
    link.unlink()


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

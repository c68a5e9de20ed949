"""Symbolic links inside our own folders that point to the result of a command."""

import errno
import filecmp
import os
from pathlib import Path

from fourshot.engine.errors import InputError, RunFolderError
from fourshot.engine.machine.files import remove_folder

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # errors of file systems without symbolic links


def check_links(folder: Path) -> None:
    """Raise InputError if links cannot be created in ``folder``. Called before the work whose result gets a link."""
    link = folder / ".lock.link"  # a kill may leave it behind; like the lock file, it is then no part of the results
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(folder.name)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise InputError(
            f"{folder} is on a file system without symbolic links ({error.strerror}), such as exFAT, but this command "
            "makes one to its result. Give a place on another disk (--out), and copy what you need from there."
        ) from error
    link.unlink()


def check_link(link: Path) -> None:
    """Raise RunFolderError if ``link`` leads nowhere, as after its folder was moved away from the target."""
    if link.is_symlink() and not link.exists():
        raise RunFolderError(
            f"{link} is a link to {link.readlink()}, which does not exist: {link.parent} was moved or copied without "
            "what belongs to it. Put it back beside that, or remove the link to have it made again."
        )


def link_to(link: Path, target: Path) -> None:
    """Make ``link`` point to ``target``, as a relative path, so that the folder of both can be moved.

    If ``link`` is a copy of ``target``, as made by programs that follow links, it is replaced. Raises RunFolderError
    if it is anything else but a link.
    """
    if link.exists() and not link.is_symlink():
        if not _is_copy(link, target):
            raise RunFolderError(
                f"{link} exists already and is not a link: it was made by another command, or by a program that "
                "follows links when it copies. Remove it if you do not need it, or give another folder (--out)."
            )
        remove_folder(link)
    staged = link.with_name(f".{link.name}")
    staged.unlink(missing_ok=True)
    staged.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()), target_is_directory=True)
    os.replace(staged, link)


def _is_copy(folder: Path, of: Path) -> bool:
    """Whether both are folders with the same files and the same contents."""
    if not (folder.is_dir() and of.is_dir()):
        return False
    names, others = ({str(file.relative_to(root)) for file in root.rglob("*")} for root in (folder, of))
    files = [name for name in names if not (of / name).is_dir()]
    return names == others and not any(filecmp.cmpfiles(folder, of, files, shallow=False)[1:])

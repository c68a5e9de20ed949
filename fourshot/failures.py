"""Messages and exit codes of errors that end the command."""

import errno
import os

from fourshot.engine.errors import FourshotError

DEBUG = "FOURSHOT_DEBUG"
PATH_ERRORS = {  # error of the system -> what is wrong with the path, behind it, and the remedy
    errno.EISDIR: "is a folder, but a file is needed there. Move it away, or give another place.",
    errno.ENOTDIR: "cannot be reached: a part of it is a file. Move that away, or give another place.",
    errno.EACCES: "cannot be read or written by this user. Change its permissions, or give another place.",
    errno.EPERM: "cannot be changed by this user. Change its permissions, or give another place.",
    errno.EROFS: "is on a read-only disk. Give another place.",
    errno.EEXIST: "already exists, and is not a folder. Move it away, or give another place.",
    errno.EFBIG: "is larger than files may be (ulimit -f, or the file system). Raise the limit, or give another place.",
    errno.ENAMETOOLONG: "has a name that is too long for this file system. Give a shorter one.",
    errno.EMFILE: "cannot be opened: too many files are open already. Raise the limit (ulimit -n).",
    errno.ELOOP: "is a link to itself. Remove it, or give another place.",
}


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def explain(error: BaseException, *, goes_on: bool) -> tuple[int, str]:
    """Return the exit code and the message of an error.

    ``goes_on``: the same command, run again, continues where this one stopped. Other commands work in one step.
    """
    if isinstance(error, KeyboardInterrupt):
        if not goes_on:
            return 130, "stopped; it may already be done. Check before you run the same command again."
        return 130, "stopped; run the same command again to continue."
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    full = full or "No space left on device" in str(error)  # libraries wrap it in an error of their own type
    # Our errors about a full disk have one line. A stage that died of it has its log in the message, which is no help.
    if isinstance(error, FourshotError) and not (full and "\n" in str(error)):
        return error.exit_code, str(error)
    if full:
        place = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        return 1, (
            f"the disk is full{place}. Finished work is kept. Make room and run the same command again, or name "
            "a folder on another disk."
        )
    if isinstance(error, MemoryError) or "Cannot allocate memory" in str(error):
        reason = f" ({error})" if str(error) else ""
        return (
            1,
            f"there is not enough memory{reason}. End other programs, raise a limit (ulimit -v), or do less at once.",
        )
    if isinstance(error, FileNotFoundError) and not error.filename and not _has_current_folder():
        return 2, "the current folder is gone. Change to one that exists (cd)."
    if isinstance(error, OSError):
        if error.filename and error.errno in PATH_ERRORS:
            # 1: a file that is too large was being written, so work is kept; open files are not the user's input.
            return 1 if error.errno in (
                errno.EFBIG,
                errno.EMFILE,
            ) else 2, f"{error.filename} {PATH_ERRORS[error.errno]}"
        return 1, f"{error}. Set {DEBUG}=1 to see where."
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return 2, f"the input has bytes that are not UTF-8: {error}. Give it in UTF-8."
    return 1, (
        f"unexpected {type(error).__name__}: {error}\nThis is a fault in fourshot, not in your input. "
        f"Set {DEBUG}=1 and run the command again to see where."
    )

"""The folder for files that fourshot creates once, mainly the bundled model."""

import os
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import check_mounted

HOME_VARIABLE = "FOURSHOT_HOME"


def home() -> Path:
    """Return FOURSHOT_HOME if set, else ``fourshot`` in the user's cache (XDG on Linux). It may not exist yet.

    Raises InputError if the user has no home folder, or if FOURSHOT_HOME cannot be a path of a file system.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        check_mounted(chosen)
        return Path(chosen).expanduser().resolve()
    import platformdirs

    try:
        return Path(platformdirs.user_cache_dir("fourshot"))
    except RuntimeError as error:
        raise InputError(
            f"this user has no home folder. Set {HOME_VARIABLE}, or HOME, to a folder that it may write to."
        ) from error

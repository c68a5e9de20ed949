"""Where fourshot keeps what it makes once: the embedded model above all."""

import os
from pathlib import Path

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import check_mounted

HOME_VARIABLE = "FOURSHOT_HOME"


def home() -> Path:
    """The folder: FOURSHOT_HOME if set, else ``fourshot`` in the user's cache (XDG on Linux). May not exist yet.

    Raises InputError for a user who has none.
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

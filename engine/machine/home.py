"""Where fourshot keeps what it makes once: the embedded model above all."""

import os
from pathlib import Path

from fourshot.engine.machine.files import check_mounted

HOME_VARIABLE = "FOURSHOT_HOME"


def home() -> Path:
    """The folder: FOURSHOT_HOME if set, else ``fourshot`` in the user's cache (XDG on Linux). May not exist yet."""
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        check_mounted(chosen)
        return Path(chosen).expanduser().resolve()
    import platformdirs

    return Path(platformdirs.user_cache_dir("fourshot"))

"""Files that are whole or not there."""

import os
from pathlib import Path


def replace_file(target: Path, content: bytes) -> None:
    """Write ``content`` so that a reader, or a start after a kill, finds the old file or the new one, never half.

    Makes the folder. Raises OSError, for a full disk say, with the old file as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    making = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with making.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(making, target)
    finally:
        making.unlink(missing_ok=True)

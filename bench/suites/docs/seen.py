"""Which labelled texts were looked at when: bench/results/seen.toml, kept by hand, as a table beside the results."""

from pathlib import Path

import msgspec

from fourshot.bench.core.parts import TablePart, markdown
from fourshot.engine.errors import InputError

SEEN_FILE = "seen.toml"


class SpotCheck(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts whose labels were compared with answers."""

    when: str  # a date
    base: str
    commit: str  # of the code that answered; "" for work over many commits
    texts: str
    why: str


class SpotChecks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    seen: tuple[SpotCheck, ...]


def load_looks(folder: Path) -> tuple[SpotCheck, ...]:
    """Raises `InputError` where the file is missing, or is none."""
    file = folder / SEEN_FILE
    try:
        return msgspec.toml.decode(file.read_bytes(), type=SpotChecks).seen
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}. It says which texts were seen when.") from error
    except msgspec.DecodeError as error:
        keys = ", ".join(SpotCheck.__struct_fields__)
        raise InputError(f"{file} is no list of looks: {error}. Write [[seen]] with {keys}.") from error


def seen_table(folder: Path) -> str:
    """All looks, oldest first, as Markdown."""
    rows = [(look.when, look.base, look.texts, look.why, look.commit or None) for look in load_looks(folder)]
    return markdown([TablePart(["seen", "base", "texts", "for", "commit"], rows, left=5)])

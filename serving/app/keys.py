"""API keys: several, each known by its hash only, each for all tasks or for some.

A key file is TOML. `fourshot keys add` writes it; the key itself is shown once and kept nowhere.

    [[key]]
    name = "support-team"
    sha256 = "…"
    tasks = ["support_tickets"]     # left out: everything, vLLM's own routes too
    max_concurrent = 16             # requests at a time; left out, or 0: as `fourshot serve --max-concurrent`
"""

import contextlib
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, unquote

import msgspec

from fourshot.engine.errors import InputError
from fourshot.engine.machine.files import replaced_file
from fourshot.engine.machine.locks import changing
from fourshot.serving.answers import RefusalError, quoted
from fourshot.serving.api import TaskList

logger = logging.getLogger("fourshot.serving")
MOST_CONCURRENT = 1_000_000  # requests at a time; a typing error beyond
PREFIX = "fs-"
MOST_TASKS_CHARS = 32 << 10  # of the names of a key's tasks, in a header
ALL_TASKS = "Name them, or leave `tasks` out for a key that may ask all, and vLLM's own routes."


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of the key file, and what its holder may do."""

    name: Annotated[str, msgspec.Meta(pattern=r"\S")]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    tasks: tuple[str, ...] = ()
    max_concurrent: Annotated[int, msgspec.Meta(ge=0)] = 0

    def may_ask(self, task: str) -> bool:
        return not self.tasks or task in self.tasks

    def require(self, task: str) -> None:
        """Raise RefusalError for a task that its holder may not ask."""
        if not self.may_ask(task):
            raise RefusalError(403, "forbidden", f"This key may not ask {quoted(task)}.")

    def visible(self, listed: TaskList) -> TaskList:
        """What its holder may know of ``listed``."""
        if not self.tasks:
            return listed
        tasks = [info for info in listed.tasks if self.may_ask(info.task)]
        return msgspec.structs.replace(listed, tasks=tasks, refused=[])

    def tasks_field(self, first: str) -> str:
        """`tasks` as a header tells a replica of them; beyond `MOST_TASKS_CHARS` they are left out, ``first`` last."""
        field = ",".join(quote(task, safe="") for task in sorted(self.tasks, key=lambda task: task != first))
        return field if len(field) <= MOST_TASKS_CHARS else field[:MOST_TASKS_CHARS].rpartition(",")[0]

    def limited_to(self, field: str) -> "Key":
        """This key for the tasks of a `tasks_field`: none where that is empty."""
        return msgspec.structs.replace(self, tasks=tuple(map(unquote, field.split(","))))


class KeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: tuple[Key, ...] = ()


class Keys:
    """The keys of a file, read again when it changes: a key that is taken out stops working within seconds."""

    def __init__(self, file: str | Path) -> None:
        """Raises InputError for a file that is no key file, or holds no key."""
        self._file = Path(file).expanduser()
        self._stamp = (0, 0, 0)
        self._keys: tuple[Key, ...] = ()
        if self._file.exists():
            self.refresh()
        if not self._keys:
            problem = "holds no key" if self._file.exists() else "is not there"
            raise InputError(f"the key file {file} {problem}. Make a key: fourshot keys add {file} --name NAME")

    def refresh(self) -> None:
        """Read the file if it changed. Raises InputError, with the old keys in force, where it cannot be read."""
        try:
            status = self._file.stat()
            if (stamp := (status.st_mtime_ns, status.st_size, status.st_ino)) == self._stamp:
                return
            keys = read_keys(self._file)
        except OSError as error:
            raise InputError(f"the key file cannot be read: {error}") from error
        if self._keys and not keys:
            logger.warning("%s holds no key any more: nobody is let in until it does", self._file)
        self._stamp, self._keys = stamp, keys

    def find(self, authorization: str) -> Key | None:
        """The key of an ``Authorization`` header, in a time that tells nothing about the keys."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        hashed = hash_key(token.strip())
        matching = None
        for key in self._keys:
            if secrets.compare_digest(hashed, key.sha256):
                matching = key
        return matching


def hash_key(key: str) -> str:
    """Keys are random and long, so a plain hash of one cannot be turned back."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(file: Path) -> tuple[Key, ...]:
    """All keys of ``file``, none where there is no file. Raises InputError where it is no key file."""
    if not file.exists():
        return ()
    try:
        tables = msgspec.toml.decode(file.read_bytes().decode("utf-8-sig"))
        keys = msgspec.convert(tables, KeyFile).key
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8: {error}. Save it as UTF-8; editors ask for the encoding.") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(
            f"{file} is no key file: {error}. It holds [[key]] tables, each with a name and a sha256."
        ) from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}. Name the key file itself.") from error
    for key, table in zip(keys, tables.get("key", ()), strict=True):
        if "tasks" in table and not all(map(str.strip, key.tasks or ("",))):
            raise InputError(f"{file}: the tasks of the key {key.name!r} are empty. {ALL_TASKS}")
    names = [key.name for key in keys]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{file} has several keys called {duplicates[0]!r}. Give each a name of its own.")
    return keys


def add_key(
    file: Path,
    name: str,
    tasks: tuple[str, ...] = (),
    max_concurrent: int = 0,
    show: Callable[[str], object] = lambda secret: None,
) -> str:
    """Add a key and return it: the only time that it is seen. Raises InputError for what cannot be one.

    ``show`` gets it before the file has it: no key that nobody has seen is left by a kill, or where ``show`` fails.
    """
    name = name.strip()
    if not name or not name.isprintable():
        raise InputError("the key has no name, or one of several lines. Give it one (--name), such as whose it is.")
    if not 0 <= max_concurrent <= MOST_CONCURRENT:
        raise InputError(
            f"--max-concurrent {max_concurrent}: give 1 to {MOST_CONCURRENT:,}, or leave it out for the limit that the "
            "service has for each key (serve --max-concurrent). To take a key away: keys remove."
        )
    with changing(file):
        keys = read_keys(file)
        if any(key.name == name for key in keys):
            raise InputError(f"{file} has a key called {name!r} already. Remove it first, or take another name.")
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(name=name, sha256=hash_key(secret), tasks=tasks, max_concurrent=max_concurrent)
        _write(file, (*keys, key), lambda: show(secret))
    return secret


def remove_key(file: Path, name: str) -> None:
    """Take a key out."""
    with changing(file):
        keys = read_keys(file)
        if not any(key.name == name for key in keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise InputError(f"{file} has no key called {name!r}. It has: {names}.")
        _write(file, tuple(key for key in keys if key.name != name))


def _write(file: Path, keys: tuple[Key, ...], before: Callable[[], object] = lambda: None) -> None:
    """Replace the keys. A link goes on leading there; who could read the file still can, in a service's account say.

    ``before`` is called when all that is left to do is to put the file in its place.
    """
    file = file.resolve()
    previous = file.stat() if file.exists() else None
    with replaced_file(file) as staged:
        staged.touch(0o600)
        staged.write_bytes(msgspec.toml.encode(KeyFile(key=keys)))
        if previous:
            with contextlib.suppress(PermissionError):  # only an administrator may give files away
                os.chown(staged, previous.st_uid, previous.st_gid)
            _keep_mode(staged, file, stat.S_IMODE(previous.st_mode))
        before()


def _keep_mode(staged: Path, file: Path, mode: int) -> None:
    """Give ``staged`` the rights of the file whose place it takes, where its file system has such rights."""
    try:
        staged.chmod(mode)
    except PermissionError:
        logger.warning("%s: its file system does not keep who may read it; before, that was %o", file, mode)

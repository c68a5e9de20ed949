"""API keys: any number, each stored only as a hash, and each for all tasks or for some.

A key file is TOML. `fourshot keys add` writes it; the key itself is shown once and stored nowhere.

    [[key]]
    name = "support-team"
    sha256 = "…"
    tasks = ["support_tickets"]     # without it: everything, including vLLM's own routes
    max_concurrent = 16             # concurrent requests; without it, or 0: as `fourshot serve --max-concurrent`
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
from fourshot.engine.machine.locks import exclusive_update
from fourshot.pipeline.faults import as_word
from fourshot.serving.answers import RefusalError, quoted
from fourshot.serving.api import TaskList

logger = logging.getLogger("fourshot.serving")
MOST_CONCURRENT = 1_000_000  # requests; more is taken for a typing error
PREFIX = "fs-"
MOST_TASKS_CHARS = 32 << 10  # of a header that lists a key's tasks
ALL_TASKS = "Name them, or leave `tasks` out for a key that may use all, and vLLM's own routes."


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry of the key file, with the permissions of its holder."""

    name: Annotated[str, msgspec.Meta(pattern=r"\S")]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    tasks: tuple[str, ...] = ()
    max_concurrent: Annotated[int, msgspec.Meta(ge=0)] = 0

    def may_ask(self, task: str) -> bool:
        return not self.tasks or task in self.tasks

    def require(self, task: str) -> None:
        """Raise RefusalError if the key is not for ``task``."""
        if not self.may_ask(task):
            raise RefusalError(403, "forbidden", f"This key may not use {quoted(task)}.")

    def visible(self, listed: TaskList) -> TaskList:
        """Return the part of ``listed`` that the key's holder may see."""
        if not self.tasks:
            return listed
        tasks = [info for info in listed.tasks if self.may_ask(info.task)]
        return msgspec.structs.replace(listed, tasks=tasks, refused=[])

    def tasks_field(self, first: str) -> str:
        """Return `tasks` as a header for a replica, ``first`` first; those beyond `MOST_TASKS_CHARS` are left out."""
        field = ",".join(quote(task, safe="") for task in sorted(self.tasks, key=lambda task: task != first))
        return field if len(field) <= MOST_TASKS_CHARS else field[:MOST_TASKS_CHARS].rpartition(",")[0]

    def limited_to(self, field: str) -> "Key":
        """Return this key, limited to the tasks of a `tasks_field`; an empty one allows none."""
        return msgspec.structs.replace(self, tasks=tuple(map(unquote, field.split(","))))


class KeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: tuple[Key, ...] = ()


class Keys:
    """The keys of a file, reread when it changes: a removed key stops working within seconds."""

    def __init__(self, file: str | Path) -> None:
        """Raises InputError if ``file`` does not exist, is no key file, or holds no key."""
        self._file = Path(file).expanduser()
        self._stamp = (0, 0, 0)
        self._keys: tuple[Key, ...] = ()
        if self._file.exists():
            self.refresh()
        if not self._keys:
            problem = "holds no key" if self._file.exists() else "does not exist"
            remedy = f"Make a key: fourshot keys add {as_word(file)} --name NAME"
            raise InputError(f"the key file {file} {problem}. {remedy}")

    def refresh(self) -> None:
        """Read the file if it changed. Raises InputError if it cannot be read; the old keys then stay in force."""
        try:
            status = self._file.stat()
            if (stamp := (status.st_mtime_ns, status.st_size, status.st_ino)) == self._stamp:
                return
            keys = read_keys(self._file)
        except OSError as error:
            raise InputError(f"the key file cannot be read: {error}") from error
        if self._keys and not keys:
            logger.warning("%s holds no key any more: all requests are rejected until it does", self._file)
        self._stamp, self._keys = stamp, keys

    def find(self, authorization: str) -> Key | None:
        """Return the key in an ``Authorization`` header, or None. The time it takes reveals nothing about the keys."""
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
    """Return the SHA-256 of ``key``. Keys are random and long, so a plain hash cannot be inverted."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(file: Path) -> tuple[Key, ...]:
    """Return all keys of ``file``, () if it does not exist. Raises InputError if it is not a valid key file."""
    if not file.exists():
        return ()
    try:
        tables = msgspec.toml.decode(file.read_bytes().decode("utf-8-sig"))
        keys = msgspec.convert(tables, KeyFile).key
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8: {error}. Save it as UTF-8; editors ask for the encoding.") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(
            f"{file} is not a key file: {error}. It holds [[key]] tables, each with a name and a sha256."
        ) from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}. Name the key file itself.") from error
    for key, table in zip(keys, tables.get("key", ()), strict=True):
        if "tasks" in table and not all(map(str.strip, key.tasks or ("",))):
            raise InputError(f"{file}: the list of tasks of the key {key.name!r} is empty. {ALL_TASKS}")
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
    """Add a key, and return its secret, which is stored nowhere.

    Raises InputError for an invalid or duplicate name, or an invalid limit. ``show`` gets the secret before the key is
    in the file. So a kill, or a failure of ``show``, leaves no key that nobody has seen.
    """
    name = name.strip()
    if not name or not name.isprintable():
        raise InputError("the key has no name, or one of several lines. Give it one (--name), such as its owner.")
    if not 0 <= max_concurrent <= MOST_CONCURRENT:
        raise InputError(
            f"--max-concurrent {max_concurrent}: give 1 to {MOST_CONCURRENT:,}, or leave it out for the limit that "
            "the service has for each key (serve --max-concurrent). To revoke a key: keys remove."
        )
    with exclusive_update(file):
        keys = read_keys(file)
        if any(key.name == name for key in keys):
            raise InputError(f"{file} already has a key called {name!r}. Remove it first, or choose another name.")
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(name=name, sha256=hash_key(secret), tasks=tasks, max_concurrent=max_concurrent)
        _write(file, (*keys, key), lambda: show(secret))
    return secret


def remove_key(file: Path, name: str) -> None:
    """Remove the key called ``name``. Raises InputError if there is none."""
    with exclusive_update(file):
        keys = read_keys(file)
        if not any(key.name == name for key in keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise InputError(f"{file} has no key called {name!r}. It has: {names}.")
        _write(file, tuple(key for key in keys if key.name != name))


def _write(file: Path, keys: tuple[Key, ...], before: Callable[[], object] = lambda: None) -> None:
    """Replace the keys. A link keeps its target, and whoever could read the file still can, say a service's account.

    ``before`` is called when only the renaming into place is left to do.
    """
    file = file.resolve()
    previous = file.stat() if file.exists() else None
    with replaced_file(file) as staged:
        staged.touch(0o600)
        staged.write_bytes(msgspec.toml.encode(KeyFile(key=keys)))
        if previous:
            with contextlib.suppress(PermissionError):  # only an administrator may change the owner
                os.chown(staged, previous.st_uid, previous.st_gid)
            _keep_mode(staged, file, stat.S_IMODE(previous.st_mode))
        before()


def _keep_mode(staged: Path, file: Path, mode: int) -> None:
    """Give ``staged`` the permissions of the file it replaces, or log a warning if its file system has none."""
    try:
        staged.chmod(mode)
    except PermissionError:
        logger.warning("%s: its file system does not preserve its permissions, which were %o", file, mode)

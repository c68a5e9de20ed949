"""Files and folders that are whole or not there, and files of JSON lines that a kill may cut short."""

import errno
import fcntl
import glob
import os
import re
import resource
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fourshot.engine.errors import FourshotError, InputError, RunFolderError
from fourshot.engine.machine.locks import held_folder

MOST_NAME_BYTES = 200
STAGED = ".partial"  # how the name of a folder ends that is being filled
ABANDONED_S = 24 * 3600.0  # after which a folder that nobody holds was left by a kill: some file systems have no locks
_ADDRESS = re.compile(r"([A-Za-z][\w+.-]+)[:\w+.-]*:/")  # `Path` makes one slash of two; one letter is a drive

T = TypeVar("T")


def check_mounted(place: str | Path) -> None:
    """Raise InputError for an address, of object storage say, or what is no path, where a folder or file is needed."""
    if address := _ADDRESS.match(str(place)):
        raise InputError(
            f"{str(place)!r} is an address ({address[1]}://), and a path of a file system is needed here. Results are "
            "renamed into place, files grow line by line and folders are locked, which object storage does not do. "
            "Give a folder; over several machines, one that all of them mount (NFS or the like). Copy from and to "
            "the storage before and after."
        )
    try:
        Path(place).stat()
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            file = next((part for part in Path(place).parents if part.exists() and not part.is_dir()), place)
            raise InputError(f"{file} is a file, so nothing can be below it: {place}. Give another place.") from error
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{str(place)[:200]!r} cannot be a path: {error.strerror}. Give another one.") from error


def allow_open_files(count: int) -> None:
    """Let this process, and those that it starts, open ``count`` files more, as far as its user may.

    Locks and connections are such files; systemd, shells and containers often begin with 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + count
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def replace_file(target: Path, content: bytes) -> None:
    """Write ``content`` so that a reader, or a start after a kill, finds the old file or the new one, never half.

    Makes the folder. Raises OSError, for a full disk say, with the old file as it was.
    """
    with replaced_file(target) as staged:
        staged.write_bytes(content)


def _start_of(name: str) -> str:
    """So much of a name that there is room for more: file systems end them at 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:MOST_NAME_BYTES])


@contextmanager
def replaced_file(target: Path) -> Iterator[Path]:
    """A hidden file to be written, which takes the place of ``target`` when the block is left without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Process ids of two machines may be the same, and both may write into a folder that they share.
    staged = target.with_name(f".{_start_of(target.name)}.{secrets.token_hex(4)}.{os.getpid()}")
    try:
        with _naming(target, staged):
            yield staged
            _sync(staged)
            os.replace(staged, target)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


@contextmanager
def _naming(target: Path, staged: Path | None = None) -> Iterator[None]:
    """Say of which place an error is: of a full disk none is named, and what is ``staged`` is nothing a user knows."""
    try:
        yield
    except OSError as error:
        if error.filename in (None, str(staged)):
            is_of_folder = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            error.filename = str(target.parent.absolute() if is_of_folder else target)
        raise


def write_json(target: Path, value: Any) -> None:
    """`replace_file` with ``value``, a struct say, as indented JSON."""
    replace_file(target, msgspec.json.format(msgspec.json.encode(value), indent=1))


def read_json(file: Path, kind: type[T]) -> T:
    """Raises OSError, and msgspec.DecodeError with the path inside the file."""
    check_regular(file)
    with as_decode_errors():
        return msgspec.json.decode(file.read_bytes(), type=kind)


def check_regular(file: Path) -> None:
    """Raise OSError where ``file`` is there and is a pipe, a socket or a device: reading one may never end."""
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise OSError(errno.EINVAL, "Neither a file nor a folder", str(file))


@contextmanager
def as_decode_errors() -> Iterator[None]:
    """Inside, what is no UTF-8, and what is nested too deep, is a msgspec.DecodeError as all else that is no JSON."""
    try:
        yield
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def read_made(file: Path, kind: type[T]) -> T:
    """`read_json` of a file that an earlier call made. Raises RunFolderError where it cannot be read."""
    try:
        return read_json(file, kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"{file} was changed after it was written, or is of another version: {error}. Put it back, or remove it to "
            "have it made again."
        ) from error


@contextmanager
def staged_folder(parent: Path, name: str = "") -> Iterator[Path]:
    """An empty folder in ``parent``, hidden, to be filled and then put in its place with `settle`.

    Makes ``parent``. What was not settled when the block is left is removed; what a kill left of such a folder is when
    the next one of its name is made, a day later or more.
    """
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{_start_of(name)}-" if name else "."
    for leftover in parent.glob(f"{glob.escape(prefix)}????????{STAGED}"):
        _remove_abandoned(leftover)
    staged = parent / f"{prefix}{secrets.token_hex(4)}{STAGED}"
    with _naming(staged, staged):
        staged.mkdir(mode=0o700)
    try:
        with held_folder(staged):
            yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _remove_abandoned(staged: Path) -> None:
    """Remove a staged folder of which it is certain that nobody fills it any more."""
    with suppress(OSError):  # somebody holds it, or has removed it; there are no locks; it is another user's
        descriptor = os.open(staged, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(descriptor).st_ctime > ABANDONED_S:
                shutil.rmtree(staged, ignore_errors=True)
        finally:
            os.close(descriptor)


def settle(staged: Path, target: Path, *, replace: bool = False, sync: bool = False) -> None:
    """Rename a filled `staged_folder` to ``target``, readable as a folder made by hand would be.

    ``replace`` removes what was there before; ``sync`` has every file on the disk first, for what is costly to make.
    """
    hidden = _umask()
    for path in (staged, *staged.rglob("*")):  # mkdtemp and safetensors make what only its owner may read
        usual = (0o777 if path.is_dir() else 0o666) & ~hidden
        if not path.is_symlink() and (mode := stat.S_IMODE(path.stat().st_mode)) | usual != mode:
            with suppress(PermissionError):  # a file system without such rights
                path.chmod(mode | usual)
    if sync:
        for path in staged.iterdir():
            _sync(path)
        _sync(staged)
    if replace:
        shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)
    if sync:
        _sync(target.parent)


def _umask() -> int:
    """What this process takes away from the rights of new files. `os.umask` would change it, for all threads."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["Umask"], 8)
    except (OSError, KeyError, ValueError):
        return 0o022


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Have every failed write below ``place`` be an OSError: safetensors has an error of its own, the cause as text."""
    try:
        yield
    except (OSError, FourshotError):
        raise
    except Exception as error:
        if code := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(place)) from error
        if "I/O error" in str(error):
            raise OSError(str(error)) from error
        raise


def remove_folder(folder: Path) -> None:
    """Remove a folder so that it is gone at once for whoever looks at this moment."""
    with staged_folder(folder.parent) as staged:
        folder.rename(staged)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_own(file: Path) -> None:
    """Raise RunFolderError where ``file`` is a link: a folder of somebody else may lead to a file of the user's."""
    if file.is_symlink():
        raise RunFolderError(f"{file} is a link, and is not written to. Put the file itself in its place.")


def append_lines(file: Path, values: Iterable[Any]) -> None:
    """Add one line of JSON per value and have them on the disk before returning; a torn last one is cut away before."""
    _check_own(file)
    with _naming(file), file.open("ab+") as opened:
        if opened.tell():
            opened.seek(-1, os.SEEK_END)
            if opened.read() != b"\n":
                opened.truncate(file.read_bytes().rfind(b"\n") + 1)
        opened.write(b"".join(msgspec.json.encode(value) + b"\n" for value in values))
        opened.flush()
        os.fsync(opened.fileno())


def read_lines(file: Path, kind: type[T]) -> list[T]:
    """All whole lines; a torn last one, left by a kill, is not there yet. None at all where there is no file.

    Raises RunFolderError for a line that is no ``kind``.
    """
    if not file.exists():
        return []
    check_regular(file)
    decode = msgspec.json.Decoder(kind).decode
    lines = file.read_bytes().split(b"\n")[:-1]
    items = []
    try:
        for line in lines:
            items.append(decode(line))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"Line {len(items) + 1} of {file} was changed after it was written, or is of another version: {error}. Put "
            "it back, or start anew in another folder (--out)."
        ) from error
    return items


def check_lines(file: Path, count: int, finished: int) -> None:
    """Raise RunFolderError where a file of lines has fewer than were finished."""
    if count < finished:
        raise RunFolderError(
            f"{file} has {count} whole lines where {finished} were finished: it was changed after the run wrote it. "
            "Put it back, or start anew in another folder (--out)."
        )


def keep_lines(file: Path, count: int) -> None:
    """Cut the file after ``count`` whole lines. Raises RunFolderError where it has fewer."""
    _check_own(file)
    content = file.read_bytes() if file.exists() else b""
    lines = content.split(b"\n", count)
    check_lines(file, len(lines) - 1, count)
    if lines[count]:
        os.truncate(file, len(content) - len(lines[count]))

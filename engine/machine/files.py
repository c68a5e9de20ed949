"""Files and folders that are written completely or not at all, and files of JSON lines that a kill may truncate."""

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
STAGED = ".partial"  # suffix of the name of a folder that is being filled
ABANDONED_S = 24 * 3600.0  # age at which an unlocked folder counts as left by a kill: some file systems have no locks
_ADDRESS = re.compile(r"([A-Za-z][\w+.-]+)[:\w+.-]*:/")  # one slash, as `Path` merges two; one letter is a drive

T = TypeVar("T")


def check_mounted(place: str | Path) -> None:
    """Raise InputError if ``place`` cannot be a path of a file system, for example an address of object storage."""
    if address := _ADDRESS.match(str(place)):
        raise InputError(
            f"{str(place)!r} is an address ({address[1]}://), but a path of a file system is needed. Results are "
            "renamed into place, files grow line by line and folders are locked, which object storage does not "
            "support. Give a folder; with several machines, one that all of them mount (such as NFS). Copy from and "
            "to the storage before and after."
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
    """Let this process and its children open ``count`` more files, up to the user's hard limit.

    Locks and connections count as open files. The default limit of systemd, shells and containers is often 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + count
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def replace_file(target: Path, content: bytes) -> None:
    """Write ``content`` atomically: a reader, or a start after a kill, finds either the old file or the new one.

    Creates the folder. Raises OSError, for example for a full disk, and then leaves the old file unchanged.
    """
    with replaced_file(target) as staged:
        staged.write_bytes(content)


def _start_of(name: str) -> str:
    """Return the first `MOST_NAME_BYTES` bytes of a name, to leave room for more: file systems allow 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:MOST_NAME_BYTES])


@contextmanager
def replaced_file(target: Path) -> Iterator[Path]:
    """Yield a hidden file to write, which replaces ``target`` if the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # The process id alone is not unique: two machines may write into a folder that they share.
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
    """Set the path in an OSError: for a full disk there is none, and users do not know the ``staged`` file."""
    try:
        yield
    except OSError as error:
        if error.filename in (None, str(staged)):
            is_of_folder = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            error.filename = str(target.parent.absolute() if is_of_folder else target)
        raise


def write_json(target: Path, value: Any) -> None:
    """Write ``value``, for example a struct, as indented JSON with `replace_file`."""
    replace_file(target, msgspec.json.format(msgspec.json.encode(value), indent=1))


def read_json(file: Path, kind: type[T]) -> T:
    """Decode a JSON file as ``kind``. Raises OSError, and msgspec.DecodeError with the position within the document."""
    check_regular(file)
    with as_decode_errors():
        return msgspec.json.decode(file.read_bytes(), type=kind)


def check_regular(file: Path) -> None:
    """Raise OSError if ``file`` exists and is a pipe, a socket or a device: reading one may never end."""
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise OSError(errno.EINVAL, "Neither a file nor a folder", str(file))


@contextmanager
def as_decode_errors() -> Iterator[None]:
    """Convert the errors for invalid UTF-8 and too deep nesting into msgspec.DecodeError, as for other invalid JSON."""
    try:
        yield
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def read_made(file: Path, kind: type[T]) -> T:
    """Call `read_json` on a file that fourshot wrote. Raises RunFolderError if it cannot be decoded, and OSError."""
    try:
        return read_json(file, kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"{file} was changed after it was written, or is of another version: {error}. Put it back, or remove it "
            "so that it is made again."
        ) from error


@contextmanager
def staged_folder(parent: Path, name: str = "") -> Iterator[Path]:
    """Yield an empty hidden folder in ``parent``, to be filled and then renamed into place with `settle`.

    Creates ``parent``. A folder that is not settled is removed at the end of the block. One that a kill left is removed
    when the next folder of that name is created, at least a day later.
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
    """Remove a staged folder if it is certain that no process is filling it any more."""
    with suppress(OSError):  # it is locked, removed, or another user's; or the file system has no locks
        descriptor = os.open(staged, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(descriptor).st_ctime > ABANDONED_S:
                shutil.rmtree(staged, ignore_errors=True)
        finally:
            os.close(descriptor)


def settle(staged: Path, target: Path, *, replace: bool = False, sync: bool = False) -> None:
    """Rename a filled `staged_folder` to ``target``, with the usual permissions of new files and folders.

    ``replace`` removes an existing ``target``. ``sync`` first flushes every file to the disk, for results that are
    expensive to create.
    """
    hidden = _umask()
    for path in (staged, *staged.rglob("*")):  # this folder and safetensors files are readable only by their owner
        usual = (0o777 if path.is_dir() else 0o666) & ~hidden
        if not path.is_symlink() and (mode := stat.S_IMODE(path.stat().st_mode)) | usual != mode:
            with suppress(PermissionError):  # a file system without such permissions
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
    """Return the umask of this process. `os.umask` would have to change it, for all threads."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["Umask"], 8)
    except (OSError, KeyError, ValueError):
        return 0o022


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Convert errors of failed writes below ``place`` into OSError: safetensors has its own, with the cause as text."""
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
    """Remove a folder atomically: other processes see either all of it or nothing."""
    with staged_folder(folder.parent) as staged:
        folder.rename(staged)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_own(file: Path) -> None:
    """Raise RunFolderError if ``file`` is a link: in another person's folder, it may point to a file of the user."""
    if file.is_symlink():
        raise RunFolderError(f"{file} is a link, and is not written to. Put the file itself in its place.")


def append_lines(file: Path, values: Iterable[Any]) -> None:
    """Append one line of JSON per value, and flush them to the disk. An incomplete last line is removed first.

    Raises RunFolderError if ``file`` is a link, and OSError.
    """
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
    """Return all complete lines, decoded as ``kind``; an empty list if there is no file.

    An incomplete last line, left by a kill, is ignored. Raises RunFolderError for a line that is not a ``kind``.
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
    """Raise RunFolderError if a file of lines has ``count`` complete lines, and more were ``finished``."""
    if count < finished:
        raise RunFolderError(
            f"{file} has {count} complete lines, but {finished} were finished: it was changed after the run wrote it. "
            "Put it back, or start anew in another folder (--out)."
        )


def keep_lines(file: Path, count: int) -> None:
    """Truncate the file after ``count`` complete lines. Raises RunFolderError if it has fewer, or is a link."""
    _check_own(file)
    content = file.read_bytes() if file.exists() else b""
    lines = content.split(b"\n", count)
    check_lines(file, len(lines) - 1, count)
    if lines[count]:
        os.truncate(file, len(content) - len(lines[count]))

"""Unpack a file and determine its kind of table, from its first bytes and then from its suffix."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Literal, cast

import msgspec

from fourshot.pipeline.faults import shorten
from fourshot.pipeline.tables.types import TableError

Kind = Literal["json", "csv", "text", "parquet", "arrow", "spreadsheet"]
KINDS: dict[str, Kind] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    **dict.fromkeys((".csv", ".tsv", ".tab"), "csv"),
    ".txt": "text",
    ".parquet": "parquet",
    **dict.fromkeys((".arrow", ".feather"), "arrow"),
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), "spreadsheet"),
}
PACKINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")
# Source: the formats' specifications; `file` and pandas check the same bytes.
_BEGINNINGS = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
# A skippable frame, which may come first. Source: RFC 8878, 3.1.2; pzstd writes one before each frame.
_BEGINNINGS |= {bytes([first]) + b"\x2a\x4d\x18": ".zst" for first in range(0x50, 0x60)}
_KIND_BEGINNINGS: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xd0\xcf\x11\xe0": "spreadsheet"}
_PARTS_OF_SPREADSHEETS = ("xl/", "content.xml")  # entries of a ZIP file that show it to be a spreadsheet
_ZIP_BEGINNINGS = (b"PK\x03\x04", b"PK\x05\x06")  # the second: of an empty archive
_JSON_BEGINNING = re.compile(rb'(\xef\xbb\xbf)?\s*(\[\s*)?\{\s*"')
_HEAD_BYTES = 64
_BLOCK_BYTES = 1 << 16  # of a compressed file that are read at once
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {".bz2": bz2.BZ2Decompressor, ".xz": lzma.LZMADecompressor}
_NO_TABLES = {
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself.", "Fetch it: git lfs pull."),
    **dict.fromkeys(
        (b"<!doctype html", b"<html"),
        (
            "a web page, not a table.",
            "Download the file itself; if a spreadsheet opens it, save it there as CSV.",
        ),
    ),
}
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError)


class TableSource(msgspec.Struct, frozen=True, kw_only=True):
    """One table in one file, which can be opened repeatedly."""

    path: Path
    kind: Kind
    name: str  # of the table itself: without the suffix of the compression, or its name in the ZIP file
    packing: str = ""  # one of `PACKINGS`; "": not compressed

    def open(self) -> BinaryIO:
        """Open the unpacked bytes at their beginning. Raises OSError."""
        return _open(self.path, self.packing, self.name)


def table_ending(path: PurePath) -> str:
    """Return the suffix of a table in lower case: ".csv" for "Tickets.CSV", ".csv.gz" for "tickets.csv.gz".

    Other compressed files give only the suffix of the compression, and other files "".
    """
    packing = path.suffix.lower() if path.suffix.lower() in PACKINGS else ""
    inner = PurePath(path.stem if packing else path.name).suffix.lower()
    return inner + packing if inner in KINDS else packing


def table_stem(path: PurePath) -> str:
    """Return the file name without the suffixes of the table and its compression."""
    return path.name[: len(path.name) - len(table_ending(path))]


def find_source(path: Path) -> TableSource:
    """Return the table that a file contains. Raises `TableError` if it contains none or several."""
    head = _head_of(path)
    name, packing = path.name, next((end for start, end in _BEGINNINGS.items() if head.startswith(start)), "")
    if head.startswith(_ZIP_BEGINNINGS):
        names = _names_in_zip(path)
        if any(part.startswith(_PARTS_OF_SPREADSHEETS) for part in names):
            return TableSource(path=path, kind="spreadsheet", name=name)
        if len(names) == 1:
            name, packing = names[0], ".zip"
        elif path.suffix.lower() in ("", ".zip", *KINDS):  # other suffixes: documents of other programs
            raise TableError(f"a ZIP file with {shorten(names) or 'nothing'}; it must contain one table.", "Unpack it.")
    elif path.suffix.lower() in PACKINGS:  # not compressed: a browser may have unpacked it and kept the name
        name = path.stem
    if packing:
        try:
            with _open(path, packing, name) as stream:
                head = stream.read(_HEAD_BYTES)
        except DAMAGED as failure:
            raise TableError(f"cannot be unpacked: {failure}.", "Is the download complete?") from failure
    return TableSource(path=path, kind=_kind_of(head, path, name, packing), name=name, packing=packing)


def _head_of(path: Path) -> bytes:
    """Return the file's first bytes. Raises TableError if it cannot be read, or is a Git LFS pointer or a web page."""
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        problem = f"a folder, not a file; it contains {shorten(names, 8) or 'nothing'}."
        remedy = "Name the table in it; for shards, the common part of their names."
        if column := next((name.partition("=")[0] for name in names if re.fullmatch(r"\w+=.*", name)), ""):
            remedy = f"Write one table, with the values in the names of these folders as a column {column!r}."
        raise TableError(problem, remedy)
    if not path.is_file():
        problem = "not a file that can be read twice, but a pipe or a device." if path.exists() else "no such file."
        raise TableError(problem, "Save it as a file." if path.exists() else "Check the path.")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as failure:
        raise TableError(f"cannot be opened: {failure.strerror}.", "Check its permissions.") from failure
    for start, (problem, remedy) in _NO_TABLES.items():
        if head.removeprefix(codecs.BOM_UTF8).lstrip().lower().startswith(start):
            raise TableError(problem, remedy)
    return head


def _kind_of(head: bytes, path: Path, name: str, packing: str) -> Kind:
    """Return the kind of table whose unpacked bytes begin with ``head``. Raises TableError if it is none."""
    suffix = PurePath(name).suffix.lower()
    kind = next((kind for start, kind in _KIND_BEGINNINGS.items() if head.startswith(start)), KINDS.get(suffix))
    if packing and kind != "spreadsheet" and head.startswith((*_BEGINNINGS, *_ZIP_BEGINNINGS)):
        raise TableError("packed twice.", "Unpack it once.")
    if kind == "csv" and _JSON_BEGINNING.match(head):
        kind = "json"
    if kind == "spreadsheet" and (text := _as_text(head)) is not None:
        if text.startswith("<?xml"):
            raise TableError("an XML spreadsheet of 2003.", "Open it in a spreadsheet program, and save it as .xlsx.")
        if "<" in text[:1]:
            raise TableError(f"a web page with the ending {suffix}.", "Open it in a spreadsheet, and save it as CSV.")
        problem = f"not a spreadsheet but text with the ending {suffix}."
        raise TableError(problem, f"Rename it to {'.tsv' if chr(9) in text else '.csv'}.")
    if kind is None and not packing and path.suffix.lower() in PACKINGS:
        problem = f"its ending is {path.suffix}, but it does not begin like such a file."
        raise TableError(problem, "Is the download complete? If it is not packed, remove the ending.")
    if kind is None:
        noun = f"{'packed ' if packing else ''}{f'{suffix} file' if suffix else 'file without an ending'}"
        raise TableError(
            f"cannot read a {noun}; allowed are {', '.join(KINDS)}, also packed ({', '.join(PACKINGS)}).",
            "If it is one of these, rename it.",
        )
    return kind


def _as_text(head: bytes) -> str | None:
    """Return ``head`` as text, if it is UTF-8, or UTF-16 with a byte-order mark, and not empty; else None."""
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head).strip()  # the last character may be cut
    except UnicodeDecodeError:
        return None
    is_text = text and not head.startswith(b"PK") and not re.search(r"[\0-\x08\x0e-\x1f]", text)
    return text if is_text else None


def _names_in_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except DAMAGED as failure:
        raise TableError(f"cannot be unpacked: {failure}.", "Is the download complete?") from failure
    # macOS adds a folder of metadata beside the packed files.
    names = [info.filename for info in infos if not info.is_dir() and not info.filename.startswith("__MACOSX/")]
    return [name for name in names if not PurePath(name).name.startswith(".")] or names


def _open(path: Path, packing: str, member: str) -> BinaryIO:
    if packing == ".zip":
        return cast(BinaryIO, zipfile.ZipFile(path).open(member))
    if packing == ".zst":
        import pyarrow

        return cast(BinaryIO, pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))
    if packing in _DECOMPRESSORS:
        return cast(BinaryIO, io.BufferedReader(_Streams(path, _DECOMPRESSORS[packing]), _BLOCK_BYTES))
    opens: dict[str, Callable[..., Any]] = {"": Path.open, ".gz": gzip.open}
    return cast(BinaryIO, opens[packing](path, "rb"))


class _Streams(io.RawIOBase):
    """The decompressed bytes of one or more concatenated streams.

    At a later stream with an invalid beginning, Python's own readers end as if the file ended there. Here, reading
    raises EOFError, OSError or LZMAError.
    """

    def __init__(self, path: Path, new_decompressor: Callable[[], Any]) -> None:
        self._file = path.open("rb")
        self._new_decompressor, self._decompressor, self._packed = new_decompressor, new_decompressor(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = b""
        while not content:
            if self._decompressor.eof:
                # Zeros may follow each stream as padding. Source: The .xz File Format, 2.2.
                self._packed = self._decompressor.unused_data.lstrip(b"\0")
                while not self._packed and (block := self._file.read(_BLOCK_BYTES)):
                    self._packed = block.lstrip(b"\0")
                if not self._packed:
                    return 0
                self._decompressor = self._new_decompressor()
            elif self._decompressor.needs_input and not self._packed:
                self._packed = self._file.read(_BLOCK_BYTES)
                if not self._packed:
                    raise EOFError("the file ends before its last stream does")
            content = self._decompressor.decompress(self._packed, len(buffer))
            self._packed = b""
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()

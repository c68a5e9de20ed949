"""The text in a file's bytes: by its byte-order mark, as UTF-8, or as the user says; never by a guess."""

import codecs
import io
import re
from typing import TextIO

import msgspec

from fourshot.pipeline.tables.file_bytes import TableSource
from fourshot.pipeline.tables.types import ReadSettings, TableError

_MARKS = {  # the longer ones first: UTF-32's begins as UTF-16's does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BLOCK_BYTES = 1 << 20
_SHOWN = 30  # bytes before and after one that is not UTF-8


class DecodedText(msgspec.Struct, frozen=True, kw_only=True):
    """A source whose bytes have all been decoded once: reading it again meets no fault."""

    source: TableSource
    encoding: str
    has_quotes: bool

    def open(self, newline: str | None = None) -> TextIO:
        """The text from its beginning; lines end at CR, LF or CRLF, kept as they are with ``newline=""``."""
        return io.TextIOWrapper(self.source.open(), encoding=self.encoding, newline=newline)


def check_text(source: TableSource, settings: ReadSettings) -> DecodedText:
    """Decode all of it, in flat memory. Raises `TableError` with the line of the first byte that is no text."""
    encoding = _find_encoding(source, settings.encoding)
    decoder = codecs.getincrementaldecoder(encoding)()
    has_quotes, before = False, 0
    with source.open() as stream:
        while True:
            block = stream.read(_BLOCK_BYTES)
            num_pending = len(decoder.getstate()[0])  # bytes of a character that the last block began
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as failure:
                if encoding == "utf-8" and b"\0" in block:
                    raise _nul(source, encoding, block) from failure
                place = before - num_pending + failure.start
                if encoding == "utf-8-sig" and not before:
                    place += len(codecs.BOM_UTF8)  # which its decoder does not count
                raise _not_decoded(source, encoding, place, failure, settings) from failure
            except UnicodeError as failure:
                raise TableError(f"not {encoding}: {failure}.", "Give its encoding, such as utf-16-le.") from failure
            if "\0" in text:
                raise _nul(source, encoding, block)
            has_quotes = has_quotes or '"' in text
            before += len(block)
            if not block:
                return DecodedText(source=source, encoding=encoding, has_quotes=has_quotes)


def _find_encoding(source: TableSource, name: str) -> str:
    with source.open() as stream:
        head = stream.read(4)
    mark = next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), "")
    if not name:
        return mark or "utf-8"
    try:
        codec = codecs.lookup(name).name
        io.TextIOWrapper(io.BytesIO(), encoding=name)  # some names stand for no text, such as "hex"
    except (LookupError, ValueError) as failure:
        problem = f"there is no encoding {name!r}; among those allowed are utf-8, utf-16, cp1252, latin-1, shift_jis."
        raise TableError(problem, "Give one of Python's names.") from failure
    if mark and not codec.startswith(marked_encoding := mark.removesuffix("-sig")):
        problem = (
            f"begins with the byte-order mark of {marked_encoding.upper()}, and the encoding {name} was asked for."
        )
        raise TableError(problem, "Leave the encoding out.")
    if not mark and codec in ("utf-16", "utf-32"):
        problem = f"has no byte-order mark, without which {codec} may be one of two encodings."
        raise TableError(problem, f"Give {codec}-le (as Windows writes it) or {codec}-be.")
    return mark or name


def _not_decoded(
    source: TableSource, encoding: str, place: int, failure: UnicodeDecodeError, settings: ReadSettings
) -> TableError:
    """The fault, its line, and what the place would be in the encoding that spreadsheets in the West write."""
    with source.open() as stream:
        ahead = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)("replace"), translate=True)
        line, num_remaining, last = 1, place, b""
        while num_remaining > 0:
            block = stream.read(min(num_remaining, _BLOCK_BYTES))
            line += ahead.decode(block).count("\n")
            num_remaining, last = num_remaining - len(block), (last + block)[-_SHOWN:]
        near = last.splitlines(keepends=True)[-1:] or [b""]
        after = stream.read(_SHOWN).splitlines()[:1] or [b""]
    if settings.encoding:
        problem = f"not {encoding}: {failure.reason}."
        return TableError(problem, "Give the encoding that the file was saved in, or save it as UTF-8.", line)
    byte = f"byte 0x{failure.object[failure.start]:02x} is not valid"
    if not encoding.startswith("utf-8"):
        return TableError(f"{byte} {encoding.upper()}: {failure.reason}.", "Save it again.", line)
    problem = f"{byte} UTF-8."
    remedy = "Save the file as UTF-8, or name its encoding (--encoding NAME; in a task file, $.data.encoding)."
    if "--encoding" not in settings.offers:
        remedy = "Save the file as UTF-8; spreadsheets call it CSV UTF-8."
    before = near[0] if not near[0].endswith((b"\n", b"\r")) else b""
    try:
        shown = before.decode("utf-8", "ignore") + after[0].decode("cp1252")
        remedy += f" As cp1252 (Windows-1252) the place is {shown.strip()!r}."
    except UnicodeDecodeError:
        pass
    return TableError(problem, remedy, line)


def _nul(source: TableSource, encoding: str, block: bytes) -> TableError:
    problem = "it has NUL characters, which no text has."
    guess = "utf-16-le" if block[1::2].count(0) >= block[::2].count(0) else "utf-16-be"
    as_guessed = block.decode(guess, "replace")
    is_likely = block.count(0) > len(block) / 4 or re.search("[\n\r]", as_guessed)
    if encoding.startswith("utf-8") and "\0" not in as_guessed and is_likely:
        return TableError(problem, f"If it is UTF-16 without a byte-order mark: --encoding {guess}. Else remove them.")
    with io.TextIOWrapper(source.open(), encoding=encoding, errors="replace") as stream:
        line = next(number for number, text in enumerate(stream, start=1) if "\0" in text)
    return TableError(problem, "Remove them; or is the file no table at all?", line)

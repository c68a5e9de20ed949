"""Decode a file: by its byte-order mark, as UTF-8, or in the encoding that the user names; never by guessing."""

import codecs
import io
import re
from typing import TextIO

import msgspec

from fourshot.pipeline.faults import warning
from fourshot.pipeline.tables.file_bytes import TableSource
from fourshot.pipeline.tables.types import ReadSettings, TableError, TableScan

_MARKS = {  # longer ones first: the mark of UTF-32 begins like that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BLOCK_BYTES = 1 << 20
_SHOWN = 30  # bytes shown before and after one that is not UTF-8
# Escape sequences for Japanese, Chinese or Korean characters in 7-bit encodings. Source: RFC 1468, RFC 1557.
_ISO_2022 = re.compile(r"\x1b\$(?:[@AB]|\([A-D]|\)C)")
_LETTER = re.compile(r"(?![a-zA-Z])[^\W\d_]")
_NEAR = 12  # characters shown on either side
_FEWEST_LETTERS = 3  # in UTF-7, from which this is unlikely to be chance


class DecodedText(msgspec.Struct, frozen=True, kw_only=True):
    """A source that has been decoded completely once, so that reading it again raises no decoding error."""

    source: TableSource
    encoding: str
    has_quotes: bool

    def open(self, newline: str | None = None) -> TextIO:
        """Open the text at its beginning. Lines end at CR, LF or CRLF, which ``newline=""`` does not translate."""
        return io.TextIOWrapper(self.source.open(), encoding=self.encoding, newline=newline)


def check_text(reading: TableScan, source: TableSource) -> DecodedText:
    """Decode the complete file, in constant memory.

    Raises `TableError` for an unknown encoding, and, where possible with its line, for the first byte that is no text.
    Adds a warning to ``reading`` if the bytes are valid in another encoding too.
    """
    settings = reading.settings
    encoding = _find_encoding(source, settings.encoding)
    is_named = codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig")
    other = _Other("utf-8" if is_named else "utf-7")
    decoder = codecs.getincrementaldecoder(encoding)()
    has_quotes, before = False, 0
    with source.open() as stream:
        while True:
            block = stream.read(_BLOCK_BYTES)
            num_pending = len(decoder.getstate()[0])  # bytes of a character begun in the last block
            try:
                text = decoder.decode(block, final=not block)
                if is_named:
                    text.encode()  # escapes and UTF-7 may hold half of a surrogate pair
            except UnicodeDecodeError as failure:
                if encoding == "utf-8" and b"\0" in block:
                    raise _nul(source, encoding, block, settings) from failure
                place = before - num_pending + failure.start
                if encoding == "utf-8-sig" and not before:
                    place += len(codecs.BOM_UTF8)  # which its decoder does not count
                raise _not_decoded(source, encoding, place, failure, settings) from failure
            except UnicodeError as failure:
                raise TableError(f"not {encoding}: {failure}.", "Give its encoding, such as utf-16-le.") from failure
            if "\0" in text:
                raise _nul(source, encoding, block, settings)
            if not is_named and (match := _ISO_2022.search(text)):
                raise _escaped(source, match[0], settings)
            other.see(block)
            has_quotes = has_quotes or '"' in text
            before += len(block)
            if not block:
                if other.letters and settings.encoding and is_named:
                    problem = f"read as {encoding}, but it is also valid UTF-8, which gives {other.sample!r}."
                    remedy = "Should --encoding (in a task file, $.data.encoding) be left out?"
                    reading.faults.append(warning(reading.path, problem, remedy))
                elif other.letters >= _FEWEST_LETTERS and not is_named:
                    problem = f"its letters may be encoded in UTF-7, which gives {other.sample!r}."
                    reading.faults.append(
                        warning(reading.path, problem, "If so, save the file as UTF-8, or name that encoding.")
                    )
                return DecodedText(source=source, encoding=encoding, has_quotes=has_quotes)


class _Other:
    """Checks whether a file is valid in another encoding too, and counts its non-ASCII letters there."""

    def __init__(self, encoding: str) -> None:
        self._decoder: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder(encoding)()
        self._is_seven_bits = encoding == "utf-7"
        self.letters, self.sample = 0, ""

    def see(self, block: bytes) -> None:
        """Process the next block of bytes; an empty one marks the end of the file."""
        if not self._decoder:
            return
        try:
            text = self._decoder.decode(block, final=not block) if not self._is_seven_bits or block.isascii() else None
        except UnicodeError:
            text = None
        if text is None:
            self._decoder, self.letters = None, 0
        elif not text.isascii():
            letters = list(_LETTER.finditer(text))
            self.letters += len(letters)
            if letters and not self.sample:
                self.sample = text[max(0, letters[0].start() - _NEAR) : letters[0].start() + _NEAR].strip()


def _escaped(source: TableSource, mark: str, settings: ReadSettings) -> TableError:
    name = "iso2022_kr" if mark.endswith(")C") else "iso2022_jp_2"
    with io.TextIOWrapper(source.open(), encoding="utf-8") as stream:
        line = next(number for number, text in enumerate(stream, start=1) if mark in text)
    remedy = "Save the file as UTF-8."
    if "--encoding" in settings.offers:
        remedy = f"Save it as UTF-8, or name its encoding (--encoding {name}; in a task file, $.data.encoding)."
    return TableError("it has escape sequences of ISO-2022, an encoding of e-mails.", remedy, line)


def _find_encoding(source: TableSource, name: str) -> str:
    with source.open() as stream:
        head = stream.read(4)
    mark = next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), "")
    if not name:
        return mark or "utf-8"
    try:
        codec = codecs.lookup(name).name
        io.TextIOWrapper(io.BytesIO(), encoding=name)  # raises for codecs that are no text encodings, such as "hex"
        codecs.getincrementaldecoder(name)("replace").decode(codecs.BOM_UTF32_LE)  # and for those of no file: "idna"
    except (LookupError, ValueError) as failure:
        problem = f"unknown encoding {name!r}; allowed are, among others, utf-8, utf-16, cp1252, latin-1, shift_jis."
        raise TableError(problem, "Give one of Python's names.") from failure
    if mark and not codec.startswith(marked_encoding := mark.removesuffix("-sig")):
        problem = f"begins with the byte-order mark of {marked_encoding.upper()}, but the encoding {name} was given."
        raise TableError(problem, "Leave the encoding out.")
    if not mark and codec in ("utf-16", "utf-32"):
        problem = f"has no byte-order mark, without which {codec} may be one of two encodings."
        raise TableError(problem, f"Give {codec}-le (as Windows writes it) or {codec}-be.")
    return mark or name


def _not_decoded(
    source: TableSource, encoding: str, place: int, failure: UnicodeDecodeError, settings: ReadSettings
) -> TableError:
    """Return the error with its line. For UTF-8, it shows the place as Windows-1252, used by Western spreadsheets."""
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
        remedy += f" In cp1252 (Windows-1252), this place is {shown.strip()!r}."
    except UnicodeDecodeError:
        pass
    return TableError(problem, remedy, line)


def _nul(source: TableSource, encoding: str, block: bytes, settings: ReadSettings) -> TableError:
    problem = "it has NUL characters, which are not part of text."
    guess = "utf-16-le" if block[1::2].count(0) >= block[::2].count(0) else "utf-16-be"
    as_guessed = block.decode(guess, "replace")
    is_likely = block.count(0) > len(block) / 4 or re.search("[\n\r]", as_guessed)
    if encoding.startswith("utf-8") and "\0" not in as_guessed and is_likely:
        name_it = f"--encoding {guess}" if "--encoding" in settings.offers else "save it as UTF-8"
        return TableError(problem, f"If it is UTF-16 without a byte-order mark: {name_it}. Else remove them.")
    with io.TextIOWrapper(source.open(), encoding=encoding, errors="replace") as stream:
        line = next(number for number, text in enumerate(stream, start=1) if "\0" in text)
    return TableError(problem, "Remove them, or check that the file is a table.", line)

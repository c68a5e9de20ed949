"""Preserve line breaks and tabs within the cells of .ods files: XML elements there, which calamine drops."""

import io
import re
import zipfile

_CONTENT = "content.xml"
# Source: OpenDocument 1.3, part 3, 6.1.4 and 6.1.5.
_BREAK = re.compile(rb"<text:line-break\b[^<>]*/>|<text:line-break\b[^<>]*>\s*</text:line-break>")
_TAB = re.compile(rb"<text:tab\b[^<>]*/>|<text:tab\b[^<>]*>\s*</text:tab>")


def with_line_breaks(content: bytes) -> bytes:
    """Return the bytes of an .ods file with line-break and tab elements replaced by characters.

    Any other content is returned unchanged, and so is a file that cannot be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            if _CONTENT not in book.namelist():
                return content
            cells = book.read(_CONTENT)
            plain = _TAB.sub(b"&#9;", _BREAK.sub(b"&#10;", cells))
            if plain == cells:
                return content
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w") as written:
                for entry in book.infolist():
                    written.writestr(entry, plain if entry.filename == _CONTENT else book.read(entry))
            return out.getvalue()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, OSError):
        return content  # the spreadsheet reader reports files that cannot be read

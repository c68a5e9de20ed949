"""Line breaks and tabs within the cells of an .ods file: elements of their own there, which calamine leaves out."""

import io
import re
import zipfile

_CONTENT = "content.xml"
# Source: OpenDocument 1.3, part 3, 6.1.4 and 6.1.5.
_BREAK = re.compile(rb"<text:line-break\b[^<>]*/>|<text:line-break\b[^<>]*>\s*</text:line-break>")
_TAB = re.compile(rb"<text:tab\b[^<>]*/>|<text:tab\b[^<>]*>\s*</text:tab>")


def with_line_breaks(content: bytes) -> bytes:
    """``content``, with these as characters where it is an .ods file that has some; what else it is stays as it is."""
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
        return content  # whether the file can be read at all is for its reader to say

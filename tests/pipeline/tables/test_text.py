"""How a text file is encoded: what its bytes say for sure is used, what they do not say is asked for."""

import codecs
from pathlib import Path

import pytest

from fourshot.engine.errors import InputError
from fourshot.pipeline.tables.files import ReadSettings, read_table

TEXT = "text;label\r\nLa clé ne tourne pas.;matériel\r\nPayé deux fois \u2013 5 €.;facturation\r\n"
ROWS = [("La clé ne tourne pas.", "matériel"), ("Payé deux fois \u2013 5 €.", "facturation")]


def read(folder: Path, content: bytes, encoding: str = "") -> list[tuple[str, str]]:
    path = folder / "t.csv"
    path.write_bytes(content)
    return [(row["text"], row["label"]) for row in read_table(path, ReadSettings(encoding=encoding)).rows.values()]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_is_told_by_its_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path, TEXT.encode(encoding)) == ROWS
    assert read(tmp_path, codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")) == ROWS


@pytest.mark.parametrize(("encoding", "line"), [("cp1252", 2), ("mac-roman", 2), ("cp1250", 2)])
def test_other_encodings_are_asked_for_with_the_line_and_how_it_would_read(
    tmp_path: Path, encoding: str, line: int
) -> None:
    with pytest.raises(InputError, match=rf":{line}: byte 0x.. is not valid UTF-8.*--encoding") as caught:
        read(tmp_path, TEXT.encode(encoding))
    assert ("La clé ne tourne pas.;matériel" in str(caught.value)) == (encoding != "mac-roman")
    assert read(tmp_path, TEXT.encode(encoding), encoding) == ROWS


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
def test_a_bad_byte_far_into_a_file_has_its_line(tmp_path: Path, newline: str) -> None:
    lines = ["text,label", *["fine all the way,a"] * 90_000, "bad \xe9,b", "fine,a"]
    with pytest.raises(InputError, match=r":90002: byte 0xe9"):
        read(tmp_path, newline.join(lines).encode("latin-1"))
    with pytest.raises(InputError, match=r":90002: byte 0xe9"):
        read(tmp_path, codecs.BOM_UTF8 + newline.join(lines).encode("latin-1"))


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (TEXT.encode("utf-16-le"), "", "NUL characters.*--encoding utf-16-le"),
        (TEXT.encode("utf-16-be"), "", "NUL characters.*--encoding utf-16-be"),
        (b"text\na\nb\0c\n", "", r":3: it has NUL characters.*check that the file is a table"),
        (TEXT.encode("utf-16")[:-1], "", "not valid UTF-16: truncated data"),
        (TEXT.encode("utf-16-le"), "utf-16", "no byte-order mark.*Give utf-16-le"),
        (TEXT.encode(), "klingon", "unknown encoding 'klingon'; allowed are"),
        (TEXT.encode(), "hex", "unknown encoding 'hex'"),
        (TEXT.encode("cp1252"), "idna", "unknown encoding 'idna'"),
        (TEXT.encode(), "undefined", "unknown encoding 'undefined'"),
        (b"text,label\nhalf +2AA- a pair,a\n", "utf-7", "not utf-7: .*surrogates not allowed"),
        (b"text,label\nhalf \\ud800 a pair,a\n", "unicode_escape", "not unicode_escape: .*surrogates not allowed"),
        (TEXT.encode("utf-8-sig"), "cp1252", "byte-order mark of UTF-8, but the encoding cp1252 was given"),
        (TEXT.encode("cp1252"), "ascii", "not ascii: ordinal not in range"),
        ("text,label\nfine,a\n\u8acb\u6c42,b\n".encode("iso2022_jp"), "", r":3: .*ISO-2022.*--encoding iso2022_jp"),
        ("text,label\n\uad6d\ub9bd,b\n".encode("iso2022_kr"), "", r":2: .*ISO-2022.*--encoding iso2022_kr"),
    ],
)
def test_what_cannot_be_decoded_is_refused_with_what_to_do(
    tmp_path: Path, content: bytes, encoding: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, content, encoding)


@pytest.mark.parametrize("encoding", ["cp1251", "mac_roman", "gbk", "latin-1"])
def test_a_named_encoding_of_a_file_in_utf_8_is_warned_about(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\nżółta łódź,faktura\nzamek jest zły,zamek\n", encoding="utf-8")
    [notice] = read_table(path, ReadSettings(encoding=encoding)).notices
    assert f"read as {encoding}, but it is also valid UTF-8, which gives 'text,label\\nżółta" in str(notice)
    path.write_text(TEXT, encoding="cp1252")
    assert not any("UTF-8" in str(notice) for notice in read_table(path, ReadSettings(encoding="cp1252")).notices)


def test_letters_in_utf_7_are_warned_about(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\nżółta łódź,faktura\nzamek jest zły,zamek\n", encoding="utf-7")
    [notice] = read_table(path).notices
    assert notice.severity == "warning" and "UTF-7, which gives 'text,label\\nżółta" in str(notice)
    for plain in ("mail a+tag@x.org or C++ and 1 + 1", "call +49 30 123456 or +4930123456", "so +- 3"):
        path.write_text(f"text,label\n{plain},a\nFine.,b\n")
        assert read_table(path).notices == ()

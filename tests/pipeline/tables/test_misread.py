"""What was UTF-8 and was read as something else is known; what people write is not taken for it."""

import re

import pytest

from fourshot.pipeline.tables.misread import misread_place

GERMAN, SIGNS, POLISH = (
    "es ist f\u00fcr mich",
    "I can\u2019t pay \u2013 why?",
    "\u017c\u00f3\u0142ta \u0142\u00f3d\u017a",
)
RUSSIAN, ARABIC, EMOJI = (
    "\u043f\u0440\u0438\u0432\u0435\u0442 \u0432\u0441\u0435\u043c",
    "\u0645\u0631\u062d\u0628\u0627",
    "Great \U0001f600",
)
CHINESE, JAPANESE = "\u6211\u65e0\u6cd5\u767b\u5f55", "\u30ed\u30b0\u30a4\u30f3\u3067\u304d\u307e\u305b\u3093"


@pytest.mark.parametrize(
    ("text", "page"),
    [
        *((text, "cp1252") for text in (GERMAN, POLISH, RUSSIAN, ARABIC, EMOJI, CHINESE, "a\ufffdb")),
        *((text, "mac_roman") for text in (GERMAN, SIGNS, POLISH, RUSSIAN, ARABIC, CHINESE, JAPANESE)),
        *((text, page) for text in (GERMAN, POLISH, RUSSIAN, CHINESE) for page in ("cp437", "cp850")),
        *((text, "cp1250") for text in (SIGNS, POLISH)),
        *((text, "cp1251") for text in (SIGNS, POLISH, RUSSIAN, CHINESE)),
        *((text, "cp1256") for text in (SIGNS, RUSSIAN, ARABIC)),
        *((text, "gbk") for text in ("\u767b\u5f55\u5931\u8d25", "a\ufffd\ufffdb")),
    ],
)
def test_utf_8_that_was_read_in_a_code_page_is_known(text: str, page: str) -> None:
    # Browsers read a byte that Windows-1252 lacks as a control character.
    damaged = (
        "".join(bytes([byte]).decode(page, "backslashreplace") for byte in text.encode())
        if page != "gbk"
        else (text.encode().decode(page))
    )
    damaged = re.sub(r"\\x(..)", lambda byte: chr(int(byte[1], 16)), damaged)
    assert damaged != text and misread_place(text) in ("", text[:20])
    assert misread_place(damaged)


@pytest.mark.parametrize(
    "text",
    [
        GERMAN,
        SIGNS,
        POLISH,
        RUSSIAN,
        ARABIC,
        EMOJI,
        CHINESE,
        JAPANESE,
        "\u201eViel Spa\u00df\u201c und \u201eguten Fu\u00df\u201c",
        "\u00ab CAF\u00c9\u00bb et \u00abTH\u00c9\u00bb, \u00e0\u2026",
        "\u0420\u0451\u0431\u0440\u0430, \u0421\u0451\u043c\u0433\u0430, \u0421\u0421\u0421\u0420\u2026",
        "\u221a\u03c0 and \u221a2, \u00ac\u2203x",
        "\u251c\u2500\u2500 folder \u2514\u2500\u2500 file",
        "\u8054\u901a",
        "a_x00zz",
        "",
    ],
)
def test_what_people_write_is_not(text: str) -> None:
    assert misread_place(text) == ""

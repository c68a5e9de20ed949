"""Detect texts that were decoded with a wrong encoding, or contain replacement characters for undecodable bytes.

Source: ftfy (https://ftfy.readthedocs.io), which repairs them: text that a code page encodes into valid UTF-8 was
decoded with that code page.
"""

import re
import unicodedata

# UTF-8 decoded as Windows-1252, Windows-1252 decoded as Latin-1, the replacement character, and the notation of
# spreadsheet files for control characters, _x000D_.
_PLAIN = (
    "[\u0080-\u0084\u0086-\u009f]|\ufffd|_x00[01][0-9A-F]_|"
    "\u00c3[\u0080-\u00bf\u0152-\u0178\u02c6-\u2122]|\u00e2\u20ac|\u00c2[\u00a0-\u00bf]|\u00ef\u00bf\u00bd|\u00f0\u0178"
)
# Accented letters and typographic characters of UTF-8 decoded as Mac OS Roman, code page 437 or 850, Windows-1251 or
# GBK. Root signs in formulas and box-drawing lines do not match.
_OTHERS = (
    "\u221a[\u00c0-\u00fc\u2020\u00b0\u00a2\u00a3\u00a7\u2022\u00b6\u00ae\u00a9\u2122\u00b4\u00a8\u00b1\u00aa\u00ba]|"
    "\u201a\u00c4[\u00f4\u00fa\u00f9\u00f2\u00ec\u00ee\u00b6\u00a2]|"
    "\u251c[\u00a1-\u00ff\u20a7\u0192\u2310\u2591-\u2593\u2550-\u256c\u2510\u255b]|\u0393\u00c7[\u00a0-\u00ff]|"
    "\u0432\u0402[\u2122\u045a\u045c\u045d\u201c\u201d\u00a6]|\u951f\u65a4\u62f7"
)
_SIGNS = re.compile(f"{_PLAIN}|{_OTHERS}")
_ALPHABETS = ("cp1252", "cp1250", "cp1251", "cp1254", "cp1256", "mac_roman", "cp437", "cp850")
_IDEOGRAPHS = ("gbk", "big5", "cp932", "cp949")
_FEWEST = {**dict.fromkeys(_ALPHABETS, 2), **dict.fromkeys(_IDEOGRAPHS, 3)}  # letters; fewer may be chance
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_MOST_PARTS = 50  # non-ASCII parts of a text that are examined
_NEAR = 12  # characters shown on either side


def misread_place(text: str) -> str:
    """Return the first sign of a wrong encoding in a text, with 12 characters on either side; "" if there is none."""
    if text.isascii() and "_x00" not in text:
        return ""
    match = _SIGNS.search(text)
    if not match and _is_misread(_BEYOND_ASCII.findall(text)):
        match = _BEYOND_ASCII.search(text)
    return text[max(0, match.start() - _NEAR) : match.end() + _NEAR] if match else ""


def _is_misread(parts: list[str]) -> bool:
    """Return whether some code page encodes the first of these non-ASCII parts into UTF-8 of plausible letters."""
    if not parts or min(map(len, parts)) < 2:  # single accented letters, as in most texts with accents
        return False
    joined = " ".join(parts[:_MOST_PARTS])
    for page, fewest in _FEWEST.items():
        try:
            letters = joined.encode(page).decode().replace(" ", "")
        except UnicodeError:
            continue
        beyond = [letter for letter in letters if not letter.isascii()]
        if len(beyond) >= fewest and all(_is_likely(letter, page) for letter in beyond):
            return True
    return False


def _is_likely(letter: str, page: str) -> bool:
    """Return whether a character is plausible in a text, unlike those that an accented letter and a sign decode to."""
    if letter >= "\u2000":
        return unicodedata.category(letter) not in ("Cn", "Co", "Cs")
    return page in _ALPHABETS and (letter <= "\u017f" or ("\u0370" <= letter <= "\u06ff" and letter.isalpha()))

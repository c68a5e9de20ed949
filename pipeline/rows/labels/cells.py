"""Read the labels in a cell, in all forms in which tables store them: numbers, booleans, NaN, lists, bytes, Unicode."""

import ast
import json
import math
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

# How data frames, spreadsheets and databases write a missing value. "None" and "NA" may be classes: see `usable_rows`.
MISSING = {"nan", "NaN", "NAN", "<NA>", "NaT", "#N/A", "null", "NULL", "\\N"}
# What spreadsheets show for a failed formula, also in German, French and Spanish. Source: Microsoft, ERROR.TYPE.
ERROR_VALUES = {"#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!", "#N/A!", "#ERROR!", "#SPILL!", "#CALC!"}
ERROR_VALUES |= {"#BEZUG!", "#WERT!", "#NV", "#ZAHL!", "#VALEUR!", "#NOM?", "#NOMBRE!", "#NOMBRE?", "#VALOR!"}
MISSING |= ERROR_VALUES
MISSING_TEXT = MISSING - {"null", "NULL"}  # for texts, which may be any word
# Cells are arbitrary: each expression passes over them once, whatever they hold. So an unclosed quote ends with them.
QUOTED = re.compile(r"""[bu]?'((?:[^'\\]|\\.)*+)(?:'|\\?$)|[bu]?"((?:[^"\\]|\\.)*+)(?:"|\\?$)""", re.DOTALL)
# How Python and numpy represent their arrays and values: array(['a'], dtype=object), np.str_('a'), np.int64(1).
SHOWN = re.compile(
    r"(?:(?:np|numpy)\.\w+\((?P<any>.+?)|(?:array|frozenset|set)\((?P<row>[\[({].*?[\])}]))"
    r"(?:,\s{0,9}dtype=[^()]{0,60})?\)",
    re.DOTALL,
)
FASTTEXT = "__label__"
MOST_NESTED = 4  # levels of such representations within others
JOINED = re.compile(r"\s*[#;|,/&+:\u3001\uff0c\uff1b\u061b\u060c]\s*|\s+(?:and|or|-)\s+")
# Invisible characters. Source: Unicode's Default_Ignorable_Code_Point, with control characters and white space.
INVISIBLE = (
    r"\s\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
)
UNSEEN = re.compile(f"[{INVISIBLE}]*")
# Unicode's format characters that matter: joiners, which letters and emoji need; tags (flags); visible Arabic signs.
JOINERS = "\u200c\u200d"
SEEN_FORMATS = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd\U000e0020-\U000e007f]")


class LabelCell(NamedTuple):
    """The labels in a cell, in their order: none, one as a task needs, or several."""

    labels: tuple[str, ...]
    treatment: str = ""  # how the cell was converted, as a key of `TREATMENTS`; "": not at all


TREATMENTS = {
    "list": "written as a list of one element: the element was used",
    "shares": "written as an object of 0 and 1, such as spaCy's cats: the one with 1 was used",
    "shown": "written as Python shows a value, such as array(['a']): its content was used",
    "bytes": "written as bytes, such as b'a': read as text",
    "fasttext": "with the prefix __label__: it was removed",
    "quotes": "in quotation marks: these were removed",
    "unicode": "with invisible characters or another spelling of an accent: normalised (Unicode NFC)",
    "blanks": "with spaces around them or several between words: these were removed",
}


def read_label(value: Any) -> LabelCell:
    """Return the labels in a cell. Raises ValueError with a description of its content if that is not a label."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return LabelCell(())
    if isinstance(value, float) and value.is_integer():  # an integer column with gaps, as table libraries write it
        return LabelCell((str(int(value)),))
    if isinstance(value, bytes):
        return _read_text(value.decode(errors="backslashreplace"))._replace(treatment="bytes")
    if isinstance(value, dict) and value and all(isinstance(share, int | float) for share in value.values()):
        if not set(value.values()) <= {0, 1}:
            raise ValueError("an object of numbers other than 0 and 1")
        return _listed([name for name, share in value.items() if share])._replace(treatment="shares")
    if isinstance(value, dict):
        # Label Studio writes {"choices": [...]}
        if len(value) != 1 or not isinstance(inner := next(iter(value.values())), list):
            raise ValueError(f"an object with the keys {', '.join(map(repr, value)) or 'none'}")
        value = inner
    if isinstance(value, list | tuple | set | frozenset):
        if any(isinstance(item, list | tuple | dict) for item in value):
            raise ValueError("a list of lists or objects")
        return _listed(value)
    return _read_text(str(value))


def read_text_cell(value: Any) -> str | None:
    """Return the text in a cell: "" for a missing value, None if it is not text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return None
    if not isinstance(value, str):
        return None
    text = value.strip()
    return "" if text in MISSING_TEXT or UNSEEN.fullmatch(text) else text


def _read_text(raw: str, depth: int = 0) -> LabelCell:
    """Return the labels in a cell of text, which may be a container as written by Python, JSON, numpy or Spark.

    Raises ValueError as `read_label` does, such as for other objects.
    """
    plain = visible(raw)
    treatment = "" if plain == raw else "blanks" if plain == " ".join(raw.split()) else "unicode"
    if plain in MISSING or not plain:
        return LabelCell(())
    if plain.startswith(FASTTEXT):
        parts = [part for part in re.split(r"[\s,]+", plain) if part]
        if all(part.startswith(FASTTEXT) and part != FASTTEXT for part in parts):
            return _listed([part.removeprefix(FASTTEXT) for part in parts])._replace(treatment="fasttext")
    if depth < MOST_NESTED and (shown := SHOWN.fullmatch(plain)):
        return _read_text(shown["any"] or shown["row"], depth + 1)._replace(treatment="shown")
    if plain[0] == plain[-1] and plain[0] in "\"'" and plain[0] not in plain[1:-1] and plain[1:-1].strip():
        return LabelCell(_read_text(plain[1:-1]).labels, "quotes")
    if plain[0] + plain[-1] not in ("[]", "()", "{}", "b'", 'b"'):
        return LabelCell((plain,), treatment)
    if re.search(r"""['"]\s+['"]""", plain) and plain[0] == "[":  # numpy: ['a' 'b'], which Python would join
        return _listed([single or double for single, double in QUOTED.findall(plain)])
    value = _parsed(plain)
    if isinstance(value, list | tuple | set | dict | bytes):
        return read_label(value)
    if plain[0] == "[" and not re.search(r"""[\[\]{}"':]""", plain[1:-1]):  # Spark: [billing]
        return _listed(plain[1:-1].split(","))
    return LabelCell((plain,), treatment)


def _parsed(text: str) -> Any:
    """Return the value of ``text`` as JSON or as a Python literal; None if it is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Python's parser, about backslashes
                return parse(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None


def is_plain(name: str) -> bool:
    """Return whether a cell with the name of a label is read as that label."""
    try:
        return read_label(name).labels == (visible(name),)
    except ValueError:
        return False


def _listed(items: Collection[Any]) -> LabelCell:
    labels = dict.fromkeys(label for item in items for label in read_label(item).labels)
    return LabelCell(tuple(labels), "list")


def visible(text: str) -> str:
    """Return ``text`` in Unicode NFC, with single spaces and without invisible characters."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    chars = [
        char
        for place, char in enumerate(text)
        if not ("\ufe00" <= char <= "\ufe0f" or unicodedata.category(char) in ("Cf", "Cc"))
        or char.isspace()
        or SEEN_FORMATS.match(char)
        or (char in JOINERS and _joins(text, place))
    ]
    return " ".join(unicodedata.normalize("NFC", "".join(chars)).split())


def _joins(text: str, place: int) -> bool:
    """Return whether the joiner at ``place`` is between two non-ASCII characters, whose form it may change."""
    around = text[place - 1 : place] + text[place + 1 : place + 2]
    return len(around) == 2 and not any(char.isascii() or char.isspace() for char in around)


def perhaps_joined(names: Collection[str]) -> list[str]:
    """Return the names that may be several labels: a part is a name or part of another, or each word is a name."""
    alone = {name.casefold() for name in names}
    parts = {name: re.split(r"\s*[;|,]\s*", name.casefold()) for name in names if any(map(str.isalpha, name))}
    shared = Counter(part for name, words in parts.items() if re.search("[;|]", name) for part in {*words} - {""})
    return [
        name
        for name, words in parts.items()
        if (len(words) > 1 and any(part in alone or shared[part] > 1 for part in filter(None, words)))
        or (" " in name and alone.issuperset(name.casefold().split()))  # on separate lines, which became spaces
    ]


def joined_labels(names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the names that are several labels in one cell, such as "lock#damage" -> the labels, each a name too."""
    alone = {name.casefold(): name for name in names}
    joined_names = {}
    for name in sorted(names):
        parts = [part for part in JOINED.split(name) if part]
        if len(parts) > 1 and all(part.casefold() in alone for part in parts):
            joined_names[name] = tuple(alone[part.casefold()] for part in parts)
    return joined_names

"""The words that a model reads for a class: derived from the label's name, or proposed if the name says nothing."""

import html
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence

from fourshot.pipeline.rows.text_words import without_marks

# Names of all classes -> words that such names often mean. They are proposed to the user, never used by default.
SCALES: Sequence[Mapping[str, str]] = (
    {"-1": "negative", "0": "neutral", "1": "positive"},
    {"-1": "negative", "1": "positive"},
    {"-1": "negative", "0": "neutral", "+1": "positive"},
    {"-1": "negative", "+1": "positive"},
    {"0": "no", "1": "yes"},
    {"0": "negative", "1": "neutral", "2": "positive"},
    {"1": "negative", "2": "neutral", "3": "positive"},
    {"0": "terrible", "1": "bad", "2": "okay", "3": "good", "4": "great"},
    {"1": "terrible", "2": "bad", "3": "okay", "4": "good", "5": "great"},
    {"-": "negative", "+": "positive"},
    {"-": "negative", "0": "neutral", "+": "positive"},
    {"n": "no", "y": "yes"},
    {"f": "false", "t": "true"},
    {"n": "negative", "p": "positive"},
    {"a": "excellent", "b": "good", "c": "fair", "d": "poor", "f": "failed"},
    {"a": "excellent", "b": "good", "c": "fair", "d": "poor"},
    {"\U0001f44d": "good", "\U0001f44e": "bad"},  # thumbs
)
# Grades with signs: any of them, if at least one has a sign. A and B alone may mean anything.
GRADES = {
    "a+": "outstanding",
    "a": "excellent",
    "a-": "very good",
    "b+": "rather good",
    "b": "good",
    "b-": "decent",
    "c+": "passable",
    "c": "fair",
    "c-": "mediocre",
    "d+": "weak",
    "d": "poor",
    "d-": "bad",
    "f": "failed",
}
STARS = "\u2605\u2b50*"  # full ones
RATING = re.compile(rf"([{STARS}]+)\u2606*|(\d+)(?:/(\d+))?")  # full stars and then empty ones; or 4/5
SIGNS = {"+": "plus", "-": "minus"}
NUMBERED = re.compile(
    r"(label|class|category|cat|topic|tag|type|group|cluster|level|intent|case|option|item|code|segment|bucket)[\W_]*\d+",
    re.IGNORECASE,
)
# Letters that look like Latin ones, and typographic signs that word processors substitute. Source: Unicode's
# confusables.txt; of Cyrillic and Greek letters, only those that look identical.
ALIKE = str.maketrans(
    "\u0430\u0441\u0435\u04bb\u0456\u0458\u043e\u0440\u0455\u0445\u0443\u03bf"
    "\u2019\u2018\u02bc\u2010\u2011\u2012\u2013\u2014\u2212\u201c\u201d\u201e"
    "\u064a\u0649\u0643",  # yeh and kaf, for which Persian and Urdu have their own letters
    "acehijopsxyo'''------\"\"\"\u06cc\u06cc\u06a9",
)
# Capitals that look like Latin ones, although their small letters may not. Source: as above.
_CAPITALS = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0405\u0406\u0408"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
    "ABEKMHOPCTYXSIJABEZHIKMNOPTYX",
)
# How spreadsheets write true and false in their languages. Source: Microsoft, "TRUE function", in each language.
TRUE = {"true", "wahr", "vrai", "verdadero", "verdadeiro", "vero", "waar", "prawda", "sant", "sand", "sann", "tosi"}
TRUE |= {"pravda", "igaz", "do\u011fru", "\u0438\u0441\u0442\u0438\u043d\u0430"}
FALSE = {"false", "falsch", "faux", "falso", "onwaar", "fa\u0142sz", "falskt", "falsk", "usann", "ep\u00e4tosi"}
FALSE |= {"nepravda", "hamis", "yanli\u015f", "yanl\u0131\u015f", "\u043b\u043e\u0436\u044c"}
_YES = TRUE | {"yes", "y", "t", "1", "ja", "j", "oui", "s\u00ed", "sim"}
_NO = FALSE | {"no", "n", "f", "0", "nein", "non", "n\u00e3o"}


def retyped(cell: str) -> str:
    """Return a cell in a form that does not change if a spreadsheet reformats it as a number, true or false."""
    plain = " ".join(cell.split())
    if plain.casefold() in TRUE | FALSE:
        return "true" if plain.casefold() in TRUE else "false"
    # Three digits behind a comma may be thousands.
    if re.fullmatch(r"[+-]?\d{1,15}(\.\d{1,12}|,(?!\d{3}$)\d{1,12})?", plain, re.ASCII):
        return f"{float(plain.replace(',', '.')):.12g}"
    return plain


def label_word(name: str) -> str:
    """Return the word that a model reads for a label: billing_issue, billingIssue -> billing issue; A- -> a minus."""
    if not any(map(str.isalpha, name)):
        return name  # -1, 4.5, ++: each sign counts
    if grade := re.fullmatch(r"([A-Za-z]{1,3})([+-])", name):
        return f"{grade[1].lower()} {SIGNS[grade[2]]}"
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    lower = spaced.lower().replace("i\u0307", "i")  # lower case of the Turkish capital in Python
    return " ".join(re.sub(r"[_\-/.:|]+", " ", lower).split()) or name


def reads_as(name: str) -> str:
    """Return a form of a name that is equal for names that read the same.

    It ignores case, separators, full-width forms, HTML entities, look-alike letters and digits of other scripts.
    Numbers are equal without leading zeros or a fraction of zero, and with a decimal comma or point.
    """
    plain = re.sub(r"&#?\w{1,8};", lambda entity: html.unescape(entity[0]), name).translate(ALIKE).strip()
    plain = re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), plain)
    plain = plain.removeprefix("'") or plain  # in spreadsheets, an apostrophe marks a cell as text
    word = unicodedata.normalize("NFKC", label_word(plain).casefold()).casefold().translate(ALIKE)
    if any(map(str.isalpha, word)):
        return word.replace(" ", "")
    word = re.sub(r"(?<=\d),(?=\d\d?$)", ".", word.replace(" ", ""))  # three digits may be thousands
    return re.sub(r"^([+-]?)0+(?=\d)", r"\1", re.sub(r"(?<=\d)\.0+$", "", word))


def looks_as(name: str) -> str:
    """Return a form of a name that is equal for names that look the same, also in capitals of several alphabets."""
    return reads_as(name.translate(_CAPITALS))


def names_alike(names: Collection[str]) -> list[list[str]]:
    """Return the names in groups that read or look the same; if all of 3 or more mean yes or no, that decides too."""
    is_question = len(names) > 2 and all(name.strip().casefold() in _YES | _NO for name in names)
    group_of: dict[tuple[str, str], list[str]] = {}
    for name in names:
        keys = [("reads", reads_as(name)), ("looks", looks_as(name))]
        if is_question:
            keys.append(("means", "yes" if name.strip().casefold() in _YES else "no"))
        known = {id(group): group for key in keys if (group := group_of.get(key))}
        group, *others = known.values() or [[]]
        for other in others:
            group += other
            group_of |= {key: group for key, members in group_of.items() if members is other}
        group.append(name)
        group_of |= dict.fromkeys(keys, group)
    return list({id(group): group for group in group_of.values()}.values())


def is_meaningless(word: str) -> bool:
    """Return whether a word is a number, sign, single letter or code, which tells a model nothing about the class."""
    # In Hindi and Lao, vowels may be combining marks between the letters of a word.
    plain = without_marks(word)
    letters = re.findall(r"[^\W\d_]", plain)
    is_word = re.search(r"[^\W\d_]{2,}", plain) or any(ord(letter) > 0x2E80 for letter in letters)
    return not is_word or bool(NUMBERED.fullmatch(word.strip()))


def propose_words(names: Sequence[str]) -> dict[str, str]:
    """Return name -> word for all classes if their names are a well-known scale; else {}."""
    # A minus may be the mathematical sign, as in typeset texts.
    by_key = {name.strip().casefold().replace("\u2212", "-"): name for name in names}
    ratings = {key: _rating(key) for key in by_key}
    if all(points for points, _ in ratings.values()) and len({most for _, most in ratings.values()}) == 1:
        by_key = {ratings[key][0]: name for key, name in by_key.items()}
    for scale in SCALES:
        if by_key.keys() == scale.keys():
            return {by_key[key]: word for key, word in scale.items()}
    if by_key.keys() <= GRADES.keys() and any(key[-1] in SIGNS for key in by_key):
        return {name: GRADES[key] for key, name in by_key.items()}
    return {}


def _rating(name: str) -> tuple[str, str]:
    """Return points and their maximum: ("4", "5") for 4/5, ("4", "stars") for stars, ("4", "") for 4; else ("", "")."""
    if not (match := RATING.fullmatch(name.replace("\ufe0f", ""))):  # the form of a sign as an emoji
        return "", ""
    stars, points, most = match.groups()
    return (str(len(stars)), "stars") if stars else (points, most or "")

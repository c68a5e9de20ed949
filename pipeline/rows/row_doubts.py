"""Warn about doubtful rows of a table from which a task is made. They are used all the same."""

import difflib
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from os.path import commonprefix

from fourshot.pipeline.faults import TaskFault, clipped, counted, shorten, warning
from fourshot.pipeline.rows.columns import Columns
from fourshot.pipeline.rows.examples import ONE_LABEL, Lined
from fourshot.pipeline.rows.labels.cells import perhaps_joined
from fourshot.pipeline.rows.labels.words import propose_words
from fourshot.pipeline.tables.files import Table
from fourshot.pipeline.tables.misread import misread_place
from fourshot.pipeline.task import Example

PERHAPS_MISSING = {"none", "na", "n/a", "nil", "?", "-", "--", "\u2013", "\u2014", "unlabeled", "unlabelled"}
PERHAPS_MISSING |= {"undefined", "missing", "(null)", "<null>", "(none)", "<none>", "(blank)", "(empty)"}
PERHAPS_MISSING |= {"skip", "skipped", "unknown", "unsure", "not sure", "todo", "tbd", "abstain", "no label"}
PERHAPS_MISSING |= {"not labeled", "not labelled", "not annotated"}
LONG_NAME, MOST_JOINED = 60, 5  # characters of a class; classes of several labels that are warned about one by one
QUOTES = "\"'`\u201c\u201d\u201e\u2018\u2019\u201a\u00ab\u00bb\u300c\u300d"
# A date as it is written in tables, and as spreadsheets rewrite 1-4.
_MONTH = r"[A-Z][a-z\u00e4\u00e9\u00fb]{2,3}"
DATE = re.compile(rf"\d{{4}}-\d\d-\d\d(?:[T ][\d:.]+)?|\d{{1,2}}[-. ]{{1,2}}{_MONTH}\.?|{_MONTH}-\d\d")
_NO_TEXT = PERHAPS_MISSING - {"?"} | {"null", "[deleted]", "[removed]", "#n/a", "tbd"}
_PATH = re.compile(r"[a-z]\w*://\S+|[^\s<>]*[/\\][^\s<>]*\.\w{2,5}", re.IGNORECASE)
_FEW, _MANY = 2, 5  # rows of a class whose name may be a typing error, and of the intended class
_ALIKE = 0.87  # similarity, at most 1: biling and billing have 0.92, unpaid and paid 0.8. Source: Python's `difflib`


def doubts_of_rows(
    place: str, table: Table, columns: Columns, rows: Sequence[Lined], examples: Sequence[Example]
) -> list[TaskFault]:
    """Return warnings about class names, rows at the table's edge, signs around texts, and wrong encodings.

    ``place`` names the label column. ``rows`` are all used rows, and ``examples`` those of them that neither repeat nor
    contradict another.
    """
    return [
        *_doubtful_classes(place, examples),
        *_at_the_edge(place, table, rows),
        *_slips(place, examples),
        *_dates(place, examples),
        *_around_texts(table, columns, examples),
        *_no_texts(table, columns, examples),
        *_misread(table, examples),
    ]


def _doubtful_classes(place: str, examples: Sequence[Example]) -> list[TaskFault]:
    """Return warnings about classes whose names are long, look like several labels, or often mean "no label"."""
    counts = Counter(example.label for example in examples)
    names = [name for name in counts if name.casefold() in PERHAPS_MISSING and not propose_words(list(counts))]
    if len(counts) > 3 and all(re.fullmatch(r"-1|\d+", name) for name in counts):
        names += ["-1"] if "-1" in counts else []
    missing = "Does it mean that there is no label? Then leave these rows out: --missing-label={}"
    doubts = {name: missing.format(shlex.quote(name)) for name in names}
    joined = perhaps_joined(counts)
    others = f" {len(joined) - MOST_JOINED} other classes may be, too." if len(joined) > MOST_JOINED else ""
    doubts |= dict.fromkeys(joined[:MOST_JOINED], f"Are these several labels?{others} {ONE_LABEL}")
    too_long = "Its name has {:,} characters, and is part of each prompt. Is this the column of labels?"
    doubts |= {name: too_long.format(len(name)) for name in counts if len(name) > LONG_NAME}
    return [
        warning(place, f"{clipped(name, LONG_NAME)!r} became a class of {counted(counts[name], 'row')}.", doubt)
        for name, doubt in doubts.items()
    ]


def _at_the_edge(place: str, table: Table, rows: Sequence[Lined]) -> list[TaskFault]:
    """Return warnings about classes of a single row that is the table's first, second or last: it may be no example."""
    counts = Counter(example.label for _, example in rows)
    if sum(count > 1 for count in counts.values()) < 2:  # the table is too small to tell
        return []
    lines = list(table.rows)
    edge = {*lines[:2], lines[-1]}
    doubt = "Is it a second header line, or a total? Then remove that row."
    return [
        warning(place, f"{clipped(example.label, LONG_NAME)!r} became a class of {table.unit} {line} alone.", doubt)
        for line, example in rows
        if line in edge and counts[example.label] == 1
    ]


def _around_texts(table: Table, columns: Columns, examples: Sequence[Example]) -> list[TaskFault]:
    """Return a warning about signs around all texts, such as end markers for other trainers, or Python's b''."""
    texts = [example.text for example in examples]
    first = re.match(r"b['\"]|[^\w\s]*", commonprefix(texts))  # noqa: RUF071, characters are what is compared
    # On reversed texts, because a search for an end would start at every character.
    last = re.match(r"\W*", commonprefix([text[::-1] for text in texts]))  # noqa: RUF071
    around = [("begins", first[0] if first else ""), ("ends", last[0][::-1] if last else "")]
    is_quoted = all(part.strip() and part.strip() in QUOTES for _, part in around)
    marks = [f"{verb} with {part!r}" for verb, part in around if len(part.strip()) > 1 or is_quoted]
    if len(texts) < 2 or not marks:
        return []
    place = f"{table.path}: column {' and '.join(map(repr, columns.texts))}"
    return [warning(place, f"each text {' and '.join(marks)}.", "Remove it if it does not belong to the texts.")]


def _no_texts(table: Table, columns: Columns, examples: Sequence[Example]) -> list[TaskFault]:
    """Return warnings about texts that often mean "no text", and about texts that are all paths or URLs."""
    texts = [example.text for example in examples]
    place = f"{table.path}: column {' and '.join(map(repr, columns.texts))}"
    faults = []
    if none := [text for text in texts if text.casefold() in _NO_TEXT]:
        problem = f"{counted(len(none), 'text')} such as {none[0]!r}."
        faults.append(warning(place, problem, "If there is no text, remove these rows."))
    if len(texts) > 1 and all(map(_PATH.fullmatch, texts)):
        problem = f"each text is a path or an address, such as {clipped(texts[0], LONG_NAME)!r}."
        faults.append(warning(place, problem, "It is used as it is. If the texts are there, put them into the table."))
    return faults


def _dates(place: str, examples: Sequence[Example]) -> list[TaskFault]:
    """Return a warning about classes that are dates, as which spreadsheets store a label such as 1-4."""
    names = sorted({example.label for example in examples if DATE.fullmatch(example.label)})
    if not names:
        return []
    become = "became a class" if len(names) == 1 else "became classes"
    doubt = "Did a spreadsheet convert labels such as 1-4? Then enter these again, in cells of the format Text."
    return [warning(place, f"{shorten(map(repr, names))} {become}: dates.", doubt)]


def _slips(place: str, examples: Sequence[Example]) -> list[TaskFault]:
    """Return warnings about classes of one or two rows whose names nearly equal those of classes with many rows."""
    counts = Counter(example.label for example in examples)
    many = [name for name, count in counts.items() if count >= _MANY]
    faults = []
    for name in [name for name, count in counts.items() if count <= _FEW][: len(many) * _MANY]:
        signs = re.sub(r"[^\W\d_]", "", name)  # these distinguish level 1 from level 2
        alike = [other for other in many if re.sub(r"[^\W\d_]", "", other) == signs and not name.endswith(other)]
        near = difflib.get_close_matches(name, [other for other in alike if not other.endswith(name)], 1, _ALIKE)
        if near:
            problem = f"{name!r} became a class of {counted(counts[name], 'row')}."
            faults.append(warning(place, problem, f"Is it {near[0]!r}? Then write it the same way."))
    return faults


def _misread(table: Table, examples: Sequence[Example]) -> list[TaskFault]:
    """Return a warning about texts and labels that were damaged earlier, by decoding or saving in a wrong encoding."""
    places = [near for row in examples if (near := misread_place(row.text) or misread_place(row.label))]
    if not places:
        return []
    problem = f"{counted(len(places), 'row')} with signs of another encoding, such as {places[0]!r}."
    return [warning(table.path, problem, "Export the table again as UTF-8, or correct the letters.")]

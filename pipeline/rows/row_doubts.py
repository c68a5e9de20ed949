"""What may be amiss with the rows that a task was made of: nothing is left out for it, and the user is told."""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from os.path import commonprefix

from fourshot.pipeline.faults import TaskFault, clipped, counted, warning
from fourshot.pipeline.rows.columns import Columns
from fourshot.pipeline.rows.examples import ONE_LABEL, Lined
from fourshot.pipeline.rows.label_cells import perhaps_joined
from fourshot.pipeline.rows.label_words import propose_words
from fourshot.pipeline.tables.files import Table
from fourshot.pipeline.task import Example

PERHAPS_MISSING = {"none", "na", "n/a", "nil", "?", "-", "--", "\u2013", "\u2014", "unlabeled", "unlabelled"}
PERHAPS_MISSING |= {"undefined", "missing", "(null)", "<null>", "(none)", "<none>", "(blank)", "(empty)"}
PERHAPS_MISSING |= {"skip", "skipped", "unknown", "unsure", "not sure", "todo", "tbd", "abstain", "no label"}
PERHAPS_MISSING |= {"not labeled", "not labelled", "not annotated"}
# UTF-8 read as Windows-1252, Windows-1252 read as Latin-1, what stands for a byte that was not understood, and how
# spreadsheets keep control characters in their files, _x000D_.
MISREAD = re.compile(
    "[\u0080-\u0084\u0086-\u009f]|"
    "\u00c3[\u0080-\u00bf\u0152-\u0178\u02c6-\u2122]|\u00e2\u20ac|\u00c2[\u00a0-\u00bf]|\ufffd|_x00[01][0-9A-F]_"
)
LONG_NAME = 60  # characters, of a class


def doubts_of_rows(
    place: str, table: Table, columns: Columns, rows: Sequence[Lined], examples: Sequence[Example]
) -> list[TaskFault]:
    """Warnings of names of classes, of rows at the table's edge, of signs around texts and of a wrong encoding.

    ``place`` names the column of the labels. ``rows`` are all that were taken, ``examples`` those of them that repeat
    or contradict no other.
    """
    return [
        *_doubtful_classes(place, examples),
        *_at_the_edge(place, table, rows),
        *_around_texts(table, columns, examples),
        *_misread(table, examples),
    ]


def _doubtful_classes(place: str, examples: Sequence[Example]) -> list[TaskFault]:
    """Warnings of classes whose names are long, look like several labels, or often mean that there is none."""
    counts = Counter(example.label for example in examples)
    names = [name for name in counts if name.casefold() in PERHAPS_MISSING and not propose_words(list(counts))]
    if len(counts) > 3 and all(re.fullmatch(r"-1|\d+", name) for name in counts):
        names += ["-1"] if "-1" in counts else []
    missing = "Does it mean that there is no label? Then leave these rows out: --missing-label={}"
    doubts = {name: missing.format(shlex.quote(name)) for name in names}
    doubts |= dict.fromkeys(perhaps_joined(counts), f"Are these several labels? {ONE_LABEL}")
    too_long = "Its name has {:,} characters, and stands in each prompt. Is this the column of labels?"
    doubts |= {name: too_long.format(len(name)) for name in counts if len(name) > LONG_NAME}
    problem = "{!r} became a class of {}."
    return [
        warning(place, problem.format(clipped(name, LONG_NAME), counted(counts[name], "row")), doubt)
        for name, doubt in doubts.items()
    ]


def _at_the_edge(place: str, table: Table, rows: Sequence[Lined]) -> list[TaskFault]:
    """Warnings of classes of one row, which is the table's first, second or last: perhaps no example at all."""
    counts = Counter(example.label for _, example in rows)
    if sum(count > 1 for count in counts.values()) < 2:  # a table of few rows says nothing
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
    """Warnings of signs that stand around each text, as trainers of other models and Python's bytes leave them."""
    texts = [example.text for example in examples]
    first = re.match(r"b['\"]|[^\w\s]*", commonprefix(texts))  # noqa: RUF071, characters are what is compared
    # Backwards, because a search for an end would begin at every character.
    last = re.match(r"\W*", commonprefix([text[::-1] for text in texts]))  # noqa: RUF071
    around = [("begins", first[0] if first else ""), ("ends", last[0][::-1] if last else "")]
    marks = [f"{verb} with {part!r}" for verb, part in around if len(part.strip()) > 1]
    if len(texts) < 2 or not marks:
        return []
    place = f"{table.path}: column {' and '.join(map(repr, columns.texts))}"
    return [warning(place, f"each text {' and '.join(marks)}.", "Remove it if it does not belong to the texts.")]


def _misread(table: Table, examples: Sequence[Example]) -> list[TaskFault]:
    """A warning of texts and labels that were damaged before, when they were read or saved in another encoding."""
    matches = [m for example in examples for m in [MISREAD.search(example.text) or MISREAD.search(example.label)] if m]
    if not matches:
        return []
    near = matches[0].string[max(0, matches[0].start() - 12) : matches[0].end() + 12]
    problem = f"{counted(len(matches), 'row')} with signs of another encoding, such as {near!r}."
    return [warning(table.path, problem, "Export the table again as UTF-8, or put the letters back.")]

"""Which column of a table holds the texts, which the labels, and which says that a person rejected a row."""

import re
import shlex
import string
from collections.abc import Callable, Sequence, Set
from pathlib import PurePath
from typing import Any, NamedTuple

from fourshot.engine.errors import InputError
from fourshot.pipeline.faults import shorten
from fourshot.pipeline.rows.label_cells import read_label
from fourshot.pipeline.rows.text_words import UNSPACED, count_words, without_marks
from fourshot.pipeline.tables.file_bytes import KINDS
from fourshot.pipeline.tables.files import Table
from fourshot.pipeline.tables.types import LABEL_NAMES, TEXT_NAMES

MOST_CLASSES = 200  # of a column that is found by its contents
PART_NAMES = {"subject", "title", "headline", "premise", "hypothesis", "context", "passage", "query", "prompt"}
# Parts of the names of columns that say something about a row, and are no input or class where another column may be.
ABOUT_A_ROW = {"id", "uuid", "idx", "index", "hash", "name", "author", "user", "username", "customer", "agent"}
ABOUT_A_ROW |= {"annotator", "worker", "email", "url", "link", "date", "time", "timestamp", "created", "updated"}
ABOUT_A_ROW |= {"file", "path", "address", "phone", "split", "userid", "answerid", "lead"}
ACCEPTED = {"accept", "accepted", "approve", "approved", "submitted", "true", "yes", "1"}
REJECTED = {"reject", "rejected", "ignore", "ignored", "skip", "skipped", "discard", "discarded", "draft", "pending"}
REJECTED |= {"returned", "declined", "timed-out", "timed out"}  # as sites for paid annotators say it
PRODIGY = {"accept", "reject", "ignore"}  # Source: prodi.gy/docs, "answer" of an annotated task
_LETTERS = re.compile(r"[^\W\d_]{2}")
SPLITS = {"train", "training", "test", "testing", "dev", "val", "valid", "validation", "eval"}


class Columns(NamedTuple):
    """The columns that a task is made from, and those that might have been meant instead."""

    texts: tuple[str, ...]  # joined by a line end where there are several
    labels: tuple[str, ...]  # of one annotator each where there are several
    other_texts: tuple[str, ...] = ()
    other_labels: tuple[str, ...] = ()
    verdict: str = ""  # the column in which an annotation tool keeps whether the label was accepted


def find_columns(
    table: Table, text_columns: Sequence[str] = (), label_columns: Sequence[str] = (), verdict_column: str = ""
) -> Columns:
    """The columns of a table: those given, and those that its names and contents leave no doubt about.

    ``verdict_column`` "none" says that there is none. Raises `InputError` with the columns there are where one is
    missing, and with those that may be meant where there are several.
    """
    column_names = shorten(map(repr, table.columns), 30)
    for column in (*text_columns, *label_columns, *([verdict_column] if verdict_column not in ("", "none") else [])):
        if column not in table.columns:
            raise InputError(f"{table.path} has no column {column!r}; the columns are {column_names}.")
    named = [*text_columns, *label_columns]
    if twice := [column for place, column in enumerate(named) if column in named[:place]]:
        role = "as text and as label" if twice[0] in text_columns and twice[0] in label_columns else "twice"
        raise InputError(f"the column {twice[0]!r} was named {role}. Name each column once; there are {column_names}.")
    verdicts = verdict_columns(table)
    labels = _label_columns(table, {*text_columns, *verdicts})
    chosen_labels = list(label_columns) or _decided(labels, "label")
    texts = _text_columns(table, set(chosen_labels))
    chosen_texts = list(text_columns) or _decided(texts, "text")
    chosen = {*chosen_texts, *chosen_labels}
    if chosen_texts and chosen_labels and len(chosen) == len(chosen_texts) + len(chosen_labels):
        return Columns(
            texts=tuple(chosen_texts),
            labels=tuple(chosen_labels),
            other_texts=_unchosen(texts, chosen),
            other_labels=_unchosen(_label_columns(table, set(verdicts), by_name=False), chosen),
            verdict=_verdict_column(table, [column for column in verdicts if column not in chosen], verdict_column),
        )
    doubts = [
        f"several may be the {kind}: {', '.join(_with_value(table, column) for column in columns)}"
        for kind, columns, chosen in (("text", texts, chosen_texts), ("label", labels, chosen_labels))
        if not chosen and len(columns) > 1
    ]
    missing = " and ".join(kind for kind, chosen in (("text", chosen_texts), ("label", chosen_labels)) if not chosen)
    named = [f"--{kind}-column NAME" for kind in ("text", "label") if not missing or kind in missing]
    name = f"Name {'it' if chosen_texts or chosen_labels else 'them'}: {' '.join(named)}."
    if nested := _nested(table):
        name = ""
    elif len(table.columns) < 2:
        name = "A task needs a column of texts and one of labels: add what is missing."
    joined = ""
    if len(texts) == len(table.columns) > 1 and not any(_is_called(text, TEXT_NAMES) for text in texts):
        joined = " If each column is a class with its texts in it, write a row for each text: its text, its label."
    elif len(texts) > 1 and not chosen_texts:
        joined = " Several --text-column are joined to one text."
        fields = " ".join(f"--field {shlex.quote(column)}" for column in texts[:4])
        joined += f" To keep them apart, as a premise and a hypothesis are: {fields}."
    raise InputError(
        f"cannot tell which column of {table.path} is the {missing or 'text and which the label'}; "
        f"the columns are {column_names}.{''.join(f' Of these, {doubt}.' for doubt in doubts)}{nested}"
        f"{_one_hot(table, labels) if not chosen_labels else ''}{_unseparated(table)}"
        f"{f' {name}' if name else ''}{joined}"
    )


def _unchosen(columns: Sequence[str], chosen: set[str]) -> tuple[str, ...]:
    return tuple(column for column in columns if column not in chosen and not _is_about_a_row(column))


def _decided(columns: Sequence[str], name: str) -> list[str]:
    """The column that is meant, where that is plain: the only one, or the one that is called by the usual name."""
    usual = [column for column in columns if column.strip().lower() == name]
    # "text" beside "text_pair" or "text2" is half of the input.
    alike = [column for column in columns if column not in usual and column.strip().lower().startswith(name)]
    return list(columns) if len(columns) == 1 else usual if len(usual) == 1 and (name == "label" or not alike) else []


def _text_columns(table: Table, excluded: set[str]) -> list[str]:
    free = [column for column in table.columns if column not in excluded]
    named = [
        column
        for column in free
        if (_is_called(column, TEXT_NAMES) and any(isinstance(value, str) for value in _values(table, column)))
        or (_is_called(column, PART_NAMES) and _is_worded(_values(table, column)))
    ]
    return _plausible(table, free, named, _looks_like_text)


def _label_columns(table: Table, excluded: set[str], by_name: bool = True) -> list[str]:
    free = [column for column in table.columns if column not in excluded]
    named = [column for column in free if _is_called(column, LABEL_NAMES)]
    numbered = [column for column in free if _is_called(_unnumbered(column), LABEL_NAMES)]
    filled = [column for column in numbered if column in named or any(map(plain_cell, _values(table, column)))]
    named = filled if len(filled) > 1 else named  # label_1 and label_2
    if by_name and named:
        return named
    labels = _plausible(table, free, named, _looks_like_label)
    return [column for column in labels if not _is_called(column, TEXT_NAMES | PART_NAMES)] or labels


def _unnumbered(column: str) -> str:
    """Without a number at its end."""
    name = column.rstrip("0123456789")
    return name if name == column else name.rstrip(string.whitespace + string.punctuation)


def _is_called(column: str, names: Set[str]) -> bool:
    return column.strip().lower() in names


def _plausible(
    table: Table, free: Sequence[str], named: Sequence[str], looks_right: Callable[[Sequence[Any]], bool]
) -> list[str]:
    """Columns that are named so or look so, in the table's order; those about a row only where there is no other."""
    right = [column for column in free if column in named or looks_right(_values(table, column))]
    return [column for column in right if column in named or not _is_about_a_row(column)] or right


def _is_about_a_row(column: str) -> bool:
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower())
    return not ABOUT_A_ROW.isdisjoint(words)


def _values(table: Table, column: str) -> list[Any]:
    values = (row.get(column) for row in table.rows.values())
    return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]


def _is_worded(values: Sequence[Any]) -> bool:
    """Whether most are words of letters, with blanks between them where the script has blanks: no dates, no sums."""
    texts = [without_marks(value.strip()) for value in values if isinstance(value, str)]  # letters side by side
    worded = sum(any(map(_LETTERS.search, text.split()[:-1])) or bool(UNSPACED.search(text)) for text in texts)
    return worded > len(values) / 2


def _looks_like_text(values: Sequence[Any]) -> bool:
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if not _is_worded(values):
        return False
    # Sentences may be repeated, such as what several questions are about; labels of two or three words are.
    is_long = sum(map(count_words, texts)) >= 5 * len(texts)
    return len(set(texts)) > len(texts) * (0.1 if is_long else 0.5)


def _looks_like_label(values: Sequence[Any]) -> bool:
    distinct, filled = set(), 0
    for value in values:
        text = plain_cell(value)
        distinct.add(text)
        filled += bool(text)
        if len(text) > 40 or len(distinct) > MOST_CLASSES + 1:
            return False
    return 1 < len(distinct - {""}) <= min(MOST_CLASSES, len(values) / 2) and filled >= len(values) / 2


def plain_cell(value: Any) -> str:
    """The labels in a cell as one text; "" where it has none, or an object."""
    try:
        return ", ".join(read_label(value).labels)
    except ValueError:
        return ""


def verdict_columns(table: Table) -> list[str]:
    """The columns that hold a person's verdicts on the rows, as their contents say."""
    return [column for column in table.columns if _is_verdict(table, column)]


def _is_verdict(table: Table, column: str) -> bool:
    words = set()
    for value in _values(table, column):
        word = plain_cell(value).casefold()
        if word and word not in ACCEPTED | REJECTED:
            return False
        words.add(word)
    is_prodigys = column == "answer" and words - {""} <= PRODIGY
    return not words.isdisjoint(REJECTED) and (is_prodigys or not words.isdisjoint(ACCEPTED))


def _verdict_column(table: Table, columns: Sequence[str], choice: str) -> str:
    """The column with a person's verdict on each label: Prodigy's is known, the like is asked for."""
    if choice:
        return "" if choice == "none" else choice
    sure = [c for c in columns if {plain_cell(value).casefold() for value in _values(table, c)} <= {*PRODIGY, ""}]
    if columns and len(sure) != 1:
        raise InputError(
            f"{table.path}: {' and '.join(_with_value(table, column) for column in columns)} may say which labels a "
            f"person rejected. Then give --verdict-column {shlex.quote(columns[0])}: only accepted rows are used, "
            "the others counted. If not, give --verdict-column none."
        )
    return sure[0] if sure else ""


def _with_value(table: Table, column: str) -> str:
    texts = (" ".join(str(value).split()) for value in _values(table, column) if value is not None)
    value = next(filter(None, texts), "")
    return f"{column!r} ({value[:40]}{'...' if len(value) > 40 else ''})"


def _one_hot(table: Table, labels: Sequence[str]) -> str:
    """What to do where each class has a column."""
    cells = {plain_cell(value).casefold() for column in labels for value in _values(table, column)}
    is_one_hot = len(labels) > 1 and cells <= {"0", "1", "true", "false"}
    return " If each is a class, with 0 and 1 in it, write one column with the name of the class." if is_one_hot else ""


def _unseparated(table: Table) -> str:
    """What to do where what separates the columns is not known."""
    is_csv = KINDS.get(PurePath(table.path).suffix.lower()) == "csv"
    if len(table.columns) > 1 or not is_csv or not re.search(r"\W", table.columns[0]):
        return ""
    return " If this is several columns, write what separates them into a first line of its own, such as sep=^ ."


def _nested(table: Table) -> str:
    """What a row must look like, where a column holds objects or lists: the text is somewhere in them."""
    first = next(iter(table.rows.values()), {})
    nested = [column for column, value in first.items() if isinstance(value, list | dict)]
    if not nested:
        return ""
    if {"annotations", "data"} <= set(nested):
        return " This is Label Studio's whole export: take its CSV or JSON-MIN export."
    holds = "holds" if len(nested) == 1 else "hold"
    return (
        f" {', '.join(map(repr, nested))} {holds} lists or objects: take text and label out of them, so that a row "
        'reads {"text": "...", "label": "..."}.'
    )

"""Which column of a table holds the texts, which the labels, and which says that a person rejected a row."""

import re
import shlex
import string
from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.column_doubts import ColumnSearch, column_doubt, names_of, with_value
from fourshot.pipeline.rows.column_looks import (
    has_sentences,
    is_worded,
    looks_like_label,
    looks_like_text,
    plain_cell,
    repeats_names,
    values_of,
)
from fourshot.pipeline.tables.files import Table
from fourshot.pipeline.tables.types import LABEL_NAMES, TEXT_NAMES

PART_NAMES = {"subject", "title", "headline", "premise", "hypothesis", "context", "passage", "query", "prompt"}
# What a column is called that says something about a row, and is no input or class where another column may be.
ABOUT_A_ROW = {"id", "uuid", "idx", "index", "hash", "name", "author", "user", "username", "customer", "agent"}
ABOUT_A_ROW |= {"annotator", "worker", "email", "url", "link", "date", "time", "timestamp", "created", "updated"}
ABOUT_A_ROW |= {"file", "path", "address", "phone", "split", "userid", "answerid", "lead"}
ACCEPTED = {"accept", "accepted", "approve", "approved", "submitted", "true", "yes", "1"}
ACCEPTED |= {"validated", "verified"}
REJECTED = {"reject", "rejected", "ignore", "ignored", "skip", "skipped", "discard", "discarded", "draft", "pending"}
REJECTED |= {"default", "unvalidated", "unverified", "cancelled", "canceled"}  # "default": Argilla 1, not yet looked at
REJECTED |= {"returned", "declined", "timed-out", "timed out"}  # as sites for paid annotators say it
DENIED = {"false", "no", "0"}  # in a column that asks whether a row was approved
APPROVAL = re.compile(r"(approved|accepted|verified|validated)$")
PRODIGY = {"accept", "reject", "ignore"}  # Source: prodi.gy/docs, "answer" of an annotated task


class Columns(NamedTuple):
    """The columns that a task is made from, and those that might have been meant instead."""

    texts: tuple[str, ...]  # joined by a line end where there are several
    labels: tuple[str, ...]  # of one annotator each where there are several
    other_texts: tuple[str, ...] = ()
    other_labels: tuple[str, ...] = ()
    set_aside: tuple[str, ...] = ()  # looked right as well, but their names say something about a row
    verdict: str = ""  # the column in which an annotation tool keeps whether the label was accepted


def find_columns(
    table: Table, text_columns: Sequence[str] = (), label_columns: Sequence[str] = (), verdict_column: str = ""
) -> Columns:
    """The columns of a table: those given, and those that its names and contents leave no doubt about.

    ``verdict_column`` "none" says that there is none. Raises `InputError` with the columns there are where one is
    missing, and with those that may be meant where there are several.
    """
    _check_named(table, text_columns, label_columns, verdict_column)
    search = _search(table, text_columns, label_columns, verdict_column)
    texts, labels = search.chosen_texts, search.chosen_labels
    chosen, verdicts = {*texts, *labels}, search.verdicts
    if not texts or not labels or len(chosen) < len(texts) + len(labels):
        raise InputError(column_doubt(table, search))
    return Columns(
        texts=tuple(texts),
        labels=tuple(labels),
        other_texts=_unchosen(search.texts, chosen),
        other_labels=_unchosen([*_label_columns(table, set(verdicts), by_name=False), *search.unlikely], chosen),
        set_aside=_set_aside(
            table,
            chosen | set(verdicts),
            texts=not text_columns and not any(_is_called(column, TEXT_NAMES) for column in texts),
            labels=not label_columns and not any(_is_called(column, LABEL_NAMES) for column in labels),
        ),
        verdict=_verdict_column(table, [column for column in verdicts if column not in chosen], verdict_column),
    )


def _check_named(table: Table, text_columns: Sequence[str], label_columns: Sequence[str], verdict_column: str) -> None:
    """Raise InputError for a column that is not there, and for one that was named twice."""
    for column in (*text_columns, *label_columns, *([verdict_column] if verdict_column not in ("", "none") else [])):
        if column not in table.columns:
            raise InputError(f"{table.path} has no column {column!r}; the columns are {names_of(table)}.")
    named = [*text_columns, *label_columns]
    if twice := [column for place, column in enumerate(named) if column in named[:place]]:
        role = "as text and as label" if twice[0] in text_columns and twice[0] in label_columns else "twice"
        raise InputError(
            f"the column {twice[0]!r} was named {role}. Name each column once; there are {names_of(table)}."
        )


def _search(
    table: Table, text_columns: Sequence[str], label_columns: Sequence[str], verdict_column: str
) -> ColumnSearch:
    verdicts = [] if verdict_column == "none" else verdict_columns(table)
    labels = _label_columns(table, {*text_columns, *verdicts})
    chosen_labels = list(label_columns) or _decided(labels, "label")
    texts = _text_columns(table, set(chosen_labels))
    chosen_texts = list(text_columns) or _decided(texts, "text")
    others = [column for column in table.columns if column not in (*labels, *verdicts, *(chosen_texts or texts))]
    unlikely = [column for column in others if not _is_about_a_row(column) and repeats_names(values_of(table, column))]
    if unlikely and not label_columns and not any(_is_called(_unnumbered(column), LABEL_NAMES) for column in labels):
        labels, chosen_labels = [*labels, *unlikely], []
    return ColumnSearch(texts, labels, chosen_texts, chosen_labels, verdicts, unlikely)


def _unchosen(columns: Sequence[str], chosen: set[str]) -> tuple[str, ...]:
    return tuple(column for column in columns if column not in chosen and not _is_about_a_row(column))


def _set_aside(table: Table, excluded: Set[str], texts: bool, labels: bool) -> tuple[str, ...]:
    """Columns that look like texts or labels, where those are looked for, and are called what says who wrote a row."""
    looks = [look for look, is_asked in ((looks_like_text, texts), (looks_like_label, labels)) if is_asked]
    aside = [column for column in table.columns if column not in excluded and _is_about_a_row(column)]
    return tuple(column for column in aside if any(look(values_of(table, column)) for look in looks))


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
        if (_is_called(column, TEXT_NAMES) and any(isinstance(value, str) for value in values_of(table, column)))
        or (_is_called(column, PART_NAMES) and is_worded(values_of(table, column)))
    ]
    return _plausible(table, free, named, looks_like_text)


def _label_columns(table: Table, excluded: set[str], by_name: bool = True) -> list[str]:
    free = [column for column in table.columns if column not in excluded]
    named = [column for column in free if _is_called(column, LABEL_NAMES)]
    numbered = [column for column in free if _is_called(_unnumbered(column), LABEL_NAMES)]
    filled = [column for column in numbered if column in named or any(map(plain_cell, values_of(table, column)))]
    named = filled if len(filled) > 1 else named  # label_1 and label_2
    if by_name and named:
        return named
    labels = _plausible(table, free, named, looks_like_label)
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
    """Columns that are named so or look so, in the table's order; those about a row only where there is no other.

    Sentences stay among the texts, whatever their column is called.
    """
    right = [column for column in free if column in named or looks_right(values_of(table, column))]
    likely = [column for column in right if column in named or not _is_about_a_row(column)]
    if looks_right is looks_like_text:
        likely = [column for column in right if column in likely or has_sentences(values_of(table, column))]
    return likely or right


def _is_about_a_row(column: str) -> bool:
    """As the noun says that a name ends with: user_name and created_at are, user_message and label_name are not."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower())
    nouns = words[: words.index("of")] if "of" in words[1:] else words
    nouns = [word for word in nouns if word not in ("at", "by", "on")]
    return bool(nouns) and nouns[-1] in ABOUT_A_ROW and not (nouns[-1] == "name" and LABEL_NAMES & {*nouns})


def verdict_columns(table: Table) -> list[str]:
    """The columns that hold a person's verdicts on the rows, as their contents say."""
    return [column for column in table.columns if _is_verdict(table, column)]


def _is_verdict(table: Table, column: str) -> bool:
    if _is_called(column, LABEL_NAMES):
        return False
    is_question = bool(APPROVAL.search(column.lower()))
    known = ACCEPTED | REJECTED | (DENIED if is_question else set())
    words = set[str]()
    for value in values_of(table, column):
        words |= _verdicts_in(value)
        if not words <= known:
            return False
    is_prodigys = column == "answer" and words <= PRODIGY
    return not words.isdisjoint(known - ACCEPTED) and (is_prodigys or not words.isdisjoint(ACCEPTED))


def _verdicts_in(value: Any) -> set[str]:
    """One for each person who judged the row."""
    return set(plain_cell(value).casefold().split(", ")) - {""}


def is_accepted(value: Any) -> bool:
    """Whether all who judged a row accepted it."""
    verdicts = _verdicts_in(value)
    return bool(verdicts) and verdicts <= ACCEPTED


def _verdict_column(table: Table, columns: Sequence[str], choice: str) -> str:
    """The column with a person's verdict on each label: that of Prodigy, "answer", is known, the like is asked for."""
    if choice:
        return "" if choice == "none" else choice
    words = {plain_cell(value).casefold() for column in columns for value in values_of(table, column)}
    is_sure = columns == ["answer"] and words <= {*PRODIGY, ""}
    if columns and not is_sure:
        raise InputError(
            f"{table.path}: {' and '.join(with_value(table, column) for column in columns)} may say which labels a "
            f"person rejected. Then give --verdict-column {shlex.quote(columns[0])}: only accepted rows are used, "
            "the others counted. If not, give --verdict-column none."
        )
    return columns[0] if columns else ""

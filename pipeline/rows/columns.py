"""Find the columns of a table with the texts, the labels, and a person's verdicts on the rows."""

import re
import shlex
import string
from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

from fourshot.engine.errors import InputError
from fourshot.pipeline.rows.column_doubts import ColumnSearch, column_doubt, names_of, with_value
from fourshot.pipeline.rows.column_looks import (
    has_sentences,
    is_varied,
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
# Names of columns with metadata of a row. They count as inputs or classes only if no other column can be meant.
ABOUT_A_ROW = {"id", "uuid", "idx", "index", "hash", "name", "author", "user", "username", "customer", "agent"}
ABOUT_A_ROW |= {"annotator", "worker", "email", "url", "link", "date", "time", "timestamp", "created", "updated"}
ABOUT_A_ROW |= {"file", "path", "address", "phone", "split", "userid", "answerid", "lead"}
ACCEPTED = {"accept", "accepted", "approve", "approved", "submitted", "true", "yes", "1"}
ACCEPTED |= {"validated", "verified"}
REJECTED = {"reject", "rejected", "ignore", "ignored", "skip", "skipped", "discard", "discarded", "draft", "pending"}
REJECTED |= {"default", "unvalidated", "unverified", "cancelled", "canceled"}  # "default": Argilla 1, not reviewed yet
REJECTED |= {"returned", "declined", "timed-out", "timed out"}  # on sites for paid annotators
DENIED = {"false", "no", "0"}  # in a column whose name means approval
APPROVAL = re.compile(r"(approved|accepted|verified|validated)$")
PRODIGY = {"accept", "reject", "ignore"}  # Source: prodi.gy/docs, "answer" of an annotated task


class Columns(NamedTuple):
    """The columns that a task is made from, and those that might have been meant instead."""

    texts: tuple[str, ...]  # several are joined by line ends
    labels: tuple[str, ...]  # several: of one annotator each
    other_texts: tuple[str, ...] = ()
    other_labels: tuple[str, ...] = ()
    skipped_for_name: tuple[str, ...] = ()  # have suitable contents, but names of metadata
    verdict: str = ""  # the column in which an annotation tool stores whether the label was accepted; "": none


def find_columns(
    table: Table, text_columns: Sequence[str] = (), label_columns: Sequence[str] = (), verdict_column: str = ""
) -> Columns:
    """Return the columns of a table: the given ones, and others if names and contents determine them.

    ``verdict_column``: "none" means that there is none. Raises `InputError` with the existing columns if a given one is
    missing, and with the possible columns if it is unclear which one is meant.
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
        skipped_for_name=_skipped_for_name(
            table,
            chosen | set(verdicts),
            texts=not text_columns and not any(_is_called(column, TEXT_NAMES) for column in texts),
            labels=not label_columns and not any(_is_called(column, LABEL_NAMES) for column in labels),
        ),
        verdict=_verdict_column(table, [column for column in verdicts if column not in chosen], verdict_column),
    )


def _check_named(table: Table, text_columns: Sequence[str], label_columns: Sequence[str], verdict_column: str) -> None:
    """Raise InputError for a given column that does not exist, and for one that is named twice."""
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


def _skipped_for_name(table: Table, excluded: Set[str], texts: bool, labels: bool) -> tuple[str, ...]:
    """Return the columns with names of metadata that look like texts, if ``texts``, or like labels, if ``labels``."""
    looks = [look for look, is_asked in ((looks_like_text, texts), (looks_like_label, labels)) if is_asked]
    aside = [column for column in table.columns if column not in excluded and _is_about_a_row(column)]
    return tuple(column for column in aside if any(look(values_of(table, column)) for look in looks))


def _decided(columns: Sequence[str], name: str) -> list[str]:
    """Return the only column, or else the only one with the usual ``name``; empty if neither is unambiguous."""
    usual = [column for column in columns if column.strip().lower() == name]
    # "text" beside "text_pair" or "text2" is only half of the input.
    alike = [column for column in columns if column not in usual and column.strip().lower().startswith(name)]
    return list(columns) if len(columns) == 1 else usual if len(usual) == 1 and (name == "label" or not alike) else []


def _text_columns(table: Table, excluded: set[str]) -> list[str]:
    free = [column for column in table.columns if column not in excluded]
    named = [
        column
        for column in free
        if (_is_called(column, TEXT_NAMES) and any(isinstance(value, str) for value in values_of(table, column)))
        or (_is_called(column, PART_NAMES) and any(look(values_of(table, column)) for look in (is_worded, is_varied)))
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
    """Return a column's name without a number at its end and the separator before it."""
    name = column.rstrip("0123456789")
    return name if name == column else name.rstrip(string.whitespace + string.punctuation)


def _is_called(column: str, names: Set[str]) -> bool:
    return column.strip().lower() in names


def _plausible(
    table: Table, free: Sequence[str], named: Sequence[str], looks_right: Callable[[Sequence[Any]], bool]
) -> list[str]:
    """Return the columns of ``free`` that are in ``named`` or look right, in the table's order.

    Columns with names of metadata count only if there are no others. For texts, columns of sentences always count.
    """
    right = [column for column in free if column in named or looks_right(values_of(table, column))]
    likely = [column for column in right if column in named or not _is_about_a_row(column)]
    if looks_right is looks_like_text:
        likely = [column for column in right if column in likely or has_sentences(values_of(table, column))]
    return likely or right


def _is_about_a_row(column: str) -> bool:
    """Return whether a name's last noun means metadata: user_name and created_at, not user_message or label_name."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower())
    nouns = words[: words.index("of")] if "of" in words[1:] else words
    nouns = [word for word in nouns if word not in ("at", "by", "on")]
    return bool(nouns) and nouns[-1] in ABOUT_A_ROW and not (nouns[-1] == "name" and LABEL_NAMES & {*nouns})


def verdict_columns(table: Table) -> list[str]:
    """Return the columns whose contents look like a person's verdicts on the rows."""
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
    """Return the distinct verdicts in a cell, in lower case; several people may have judged the row."""
    return set(plain_cell(value).casefold().split(", ")) - {""}


def is_accepted(value: Any) -> bool:
    """Return whether a cell holds verdicts, all of which accept the row."""
    verdicts = _verdicts_in(value)
    return bool(verdicts) and verdicts <= ACCEPTED


def _verdict_column(table: Table, columns: Sequence[str], choice: str) -> str:
    """Return ``choice``, else Prodigy's column "answer", else "". Raises `InputError` to ask about other columns."""
    if choice:
        return "" if choice == "none" else choice
    words = {plain_cell(value).casefold() for column in columns for value in values_of(table, column)}
    is_sure = columns == ["answer"] and words <= {*PRODIGY, ""}
    if columns and not is_sure:
        raise InputError(
            f"{table.path}: {' and '.join(with_value(table, column) for column in columns)} may say which labels a "
            f"person rejected. If so, give --verdict-column {shlex.quote(columns[0])}: only accepted rows are used, "
            "and the others are counted. If not, give --verdict-column none."
        )
    return columns[0] if columns else ""
